# Fine-tuning of an MAE ViT-B/16 (https://arxiv.org/abs/2111.06377, table 9): 100 epochs, layer-wise decay
# 0.65.
#
#   tools/dist_train.sh configs/mae/benchmarks/vit-base-p16_8xb128-coslr-100e_in1k.py 8 --data DIR \
#       --cfg-options model.backbone.init_cfg.checkpoint=FILE
#
# FILE is a checkpoint of the pre-training, such as
# work_dirs/mae_vit-base-p16_8xb512-amp-coslr-300e_in1k/epoch_300.pth.
# DIR holds train/<class>/* and val/<class>/*; another number of classes: model.head.num_classes=N
# data_preprocessor.num_classes=N.
# Expected, ImageNet-1k: the official repository reports 83.6 top-1 from 1600 epochs of pre-training. Not
# measured here.
default_scope = 'mmpretrain'
_base_ = ['../../_base_/datasets/imagenet_224.py', '../../_base_/runtime.py']
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='mmssl.ViT',
        arch='b',
        img_size=224,
        patch_size=16,
        drop_path_rate=0.1,
        out_type='avg_featmap',
        final_norm=False,
        init_cfg=dict(type='Pretrained', checkpoint='', prefix='backbone.'),
    ),
    head=dict(
        type='LinearClsHead',
        num_classes=1000,
        in_channels=768,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
        init_cfg=dict(type='TruncNormal', layer='Linear', std=2e-5),
    ),
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]),
)
optim_wrapper = dict(
    type='mmssl.AmpOptimWrapper',
    dtype='bfloat16',
    constructor='mmssl.MergedOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=5e-4 * 1024 / 256, betas=(0.9, 0.999), weight_decay=0.05, fused=True),
    paramwise_cfg=dict(
        layer_decay_rate=0.65,
        flat_decay_mult=0.0,
        custom_keys=dict(cls_token=dict(decay_mult=0.0), pos_embed=dict(decay_mult=0.0)),
    ),
)
param_scheduler = dict(
    type='mmssl.WarmupCosineLR', warmup=5, end=100, eta_min=1e-6, by_epoch=True, convert_to_iter_based=True
)
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=100)
auto_scale_lr = dict(base_batch_size=1024)
