# Large Kernel Matters, https://arxiv.org/abs/1703.02719: GCN on a ViT-B that MAE pre-trained, ADE20K, 160000
# iterations.
#
#   tools/dist_train.sh configs/gcn/gcn_vit-b-mae_8xb2-160000i_ade20k-512x512.py 8 --data DIR \
#       --cfg-options model.backbone.init_cfg.checkpoint=MAE_CHECKPOINT
#
# MAE_CHECKPOINT: what tools/train.py configs/mae/mae_vit-base-p16_8xb512-amp-coslr-300e_in1k.py leaves, or a
# released file that mmssl convert has renamed.
# Expected: no figure in either paper. Not measured here.
default_scope = 'mmseg'
_base_ = ['./gcn_resnet50_4xb4-160000i_ade20k-512x512.py']
# tested by windows of the size trained at; images whose short side is less are padded to whole patches
data_preprocessor = dict(test_cfg=dict(size_divisor=16))
model = dict(
    data_preprocessor=data_preprocessor,
    test_cfg=dict(mode='slide', crop_size=(512, 512), stride=(341, 341)),
    backbone=dict(
        _delete_=True,
        type='mmssl.ViT',
        arch='base',
        img_size=512,
        patch_size=16,
        out_indices=(3, 5, 7, 11),
        final_norm=False,
        drop_path_rate=0.1,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/mae_vit-base-p16_8xb512-amp-coslr-300e_in1k/epoch_300.pth',
            prefix='backbone.',
        ),
    ),
    neck=dict(type='Feature2Pyramid', embed_dim=768, rescales=[4, 2, 1, 0.5]),
    decode_head=dict(in_channels=[768, 768, 768, 768]),
)
optim_wrapper = dict(
    _delete_=True,
    type='mmssl.AmpOptimWrapper',
    constructor='mmssl.MergedOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        custom_keys=dict(pos_embed=dict(decay_mult=0.0), cls_token=dict(decay_mult=0.0)),
    ),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, begin=0, end=1500, by_epoch=False),
    dict(type='PolyLR', eta_min=0.0, power=1.0, begin=1500, end=160000, by_epoch=False),
]
train_dataloader = dict(batch_size=2)
