# Fine-tuning of a MoCo v3 ViT-B/16 (https://arxiv.org/abs/2104.02057, section 5) as DeiT trains
# (https://arxiv.org/abs/2012.12877): AdamW, base learning rate 5e-4 for a batch of 512, weight decay 0.05,
# stochastic depth 0.1, every image three times (RepeatAugSampler), an average of the weights, 150 epochs.
#
#   tools/dist_train.sh configs/mocov3/benchmarks/vit-base-p16_8xb128-coslr-150e_in1k.py 8 --data DIR \
#       --cfg-options model.backbone.init_cfg.checkpoint=FILE
#
# DIR holds train/<class>/* and val/<class>/*; another number of classes: model.head.num_classes=N
# data_preprocessor.num_classes=N.
# Expected, ImageNet-1k: the official repository reports 83.2 top-1 after 300 epochs of pre-training,
# mmpretrain 83.0. Not measured here.
default_scope = 'mmpretrain'
_base_ = ['../../_base_/datasets/imagenet_224.py', '../../_base_/runtime.py']
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='mmssl.ViT',
        arch='base',
        img_size=224,
        patch_size=16,
        drop_path_rate=0.1,
        out_type='cls_token',
        init_cfg=dict(type='Pretrained', checkpoint='', prefix='backbone.'),
    ),
    head=dict(
        type='LinearClsHead',
        num_classes=1000,
        in_channels=768,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
        init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02),
    ),
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]),
)
train_dataloader = dict(batch_size=128, sampler=dict(_delete_=True, type='RepeatAugSampler', shuffle=True))
optim_wrapper = dict(
    type='mmssl.AmpOptimWrapper',
    dtype='bfloat16',
    constructor='mmssl.MergedOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=5e-4 * 1024 / 512, betas=(0.9, 0.999), weight_decay=0.05, fused=True),
    paramwise_cfg=dict(
        flat_decay_mult=0.0, custom_keys=dict(cls_token=dict(decay_mult=0.0), pos_embed=dict(decay_mult=0.0))
    ),
)
param_scheduler = dict(
    type='mmssl.WarmupCosineLR', warmup=5, end=150, eta_min=1e-5, by_epoch=True, convert_to_iter_based=True
)
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=150)
custom_hooks = _base_.custom_hooks + [dict(type='EMAHook', momentum=4e-5, priority='ABOVE_NORMAL')]
auto_scale_lr = dict(base_batch_size=1024)
