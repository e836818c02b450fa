# A method on two views of 64x64 photographs and one CPU core: the first three stages of a ResNet-18 of half
# the width, 12 epochs of AdamW, k-NN at the start and at the end. The views have weaker colour jitter than
# those of BYOL, and neither grey, blur nor solarisation. A config adds its model, and its own views if they
# differ.
default_scope = 'mmpretrain'
_base_ = ['./datasets/images.py', './runtime.py']
data_root = 'data/tiny-imagenet'
model = dict(
    backbone=dict(
        type='mmpretrain.ResNet',
        depth=18,
        stem_channels=32,
        base_channels=32,
        num_stages=3,
        strides=(1, 2, 2),
        dilations=(1, 1, 1),
        out_indices=(2,),
        zero_init_residual=False,
    ),
)
train_pipeline = [
    dict(
        type='mmssl.LoadViews',
        preset='byol',
        scale=64,
        crop_ratio_range=(0.2, 1.0),
        jitter=(0.2, 0.2, 0.2, 0.05),
        gray_prob=0.0,
        blur_prob=0.0,
        solarize_prob=0.0,
    ),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=128,
    num_workers=1,
    dataset=dict(data_root=data_root, data_prefix='train', pipeline=train_pipeline),
)
optim_wrapper = dict(
    type='mmssl.AmpOptimWrapper',
    dtype='bfloat16',
    constructor='mmssl.MergedOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.05, fused=True),
)
param_scheduler = dict(
    type='mmssl.WarmupCosineLR', warmup=1, end=12, by_epoch=True, convert_to_iter_based=True
)
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=12)
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=4, max_keep_ckpts=1))
custom_hooks = _base_.custom_hooks + [
    dict(type='mmssl.KNNHook', data=data_root, interval=12, at_start=True, batch_size=256, num_workers=1)
]
auto_scale_lr = dict(base_batch_size=128)
sync_bn = 'torch'
