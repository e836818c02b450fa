# R-FCN, https://arxiv.org/abs/1605.06409, on a plain ViT-B that MAE pre-trained: the RPN reads layer 9, the
# position-sensitive maps the last layer, both of stride 16. COCO, 90000 iterations.
#
#   tools/dist_train.sh configs/rfcn/rfcn_vit-base-p16-mae_8xb2-90000i_coco.py 8 --data DIR \
#       --cfg-options model.backbone.init_cfg.checkpoint=MAE_CHECKPOINT
#
# Expected: no figure in either paper. Not measured here.
_base_ = './rfcn_resnet50_8xb1-ohem-234000i_coco.py'
data_preprocessor = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True)
model = dict(
    data_preprocessor=data_preprocessor,
    backbone=dict(
        _delete_=True,
        type='mmssl.ViT',
        arch='base',
        img_size=(608, 1024),
        patch_size=16,
        out_indices=(8, 11),
        with_cls_token=False,
        drop_path_rate=0.1,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/mae_vit-base-p16_8xb512-amp-coslr-300e_in1k/epoch_300.pth',
            prefix='backbone.',
        ),
    ),
    rpn_head=dict(in_channels=768),
    roi_head=dict(bbox_head=dict(in_channels=768)),
)
train_dataloader = dict(batch_size=2)
optim_wrapper = dict(
    _delete_=True,
    type='mmssl.AmpOptimWrapper',
    dtype='bfloat16',
    constructor='mmssl.MergedOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.1),
    paramwise_cfg=dict(
        layer_decay_rate=0.7, flat_decay_mult=0.0, custom_keys=dict(pos_embed=dict(decay_mult=0.0))
    ),
)
train_cfg = dict(max_iters=90000)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, begin=0, end=250, by_epoch=False),
    dict(type='MultiStepLR', begin=0, end=90000, by_epoch=False, milestones=[80000, 86000], gamma=0.1),
]
auto_scale_lr = dict(base_batch_size=16)
