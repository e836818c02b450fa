# Barlow Twins (https://arxiv.org/abs/2103.03230) on 64x64 photographs and one CPU core: the first three
# stages of a ResNet-18 of half the width, 12 epochs of 6,000 images. Fitted to 552 steps: AdamW, weaker
# colour jitter, neither grey, blur nor solarisation.
#
#   python tools/train.py configs/barlow-twins/barlow-twins_resnet18_1xb128-coslr-12e_tiny-imagenet.py \
#       --data DIR_OR_ZIP
#
# DIR_OR_ZIP holds train/<class>/* and val/<class>/*; k-NN is measured at the start and at the end.
# Expected: no figure; not measured here yet.
_base_ = './barlow-twins_resnet50_8xb256-coslr-1000e_in1k.py'
data_root = 'data/tiny-imagenet'
model = dict(
    backbone=dict(
        depth=18,
        stem_channels=32,
        base_channels=32,
        num_stages=3,
        strides=(1, 2, 2),
        dilations=(1, 1, 1),
        out_indices=(2,),
        zero_init_residual=False,
    ),
    neck=dict(dims=(128, 512, 512, 512)),
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
optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=2e-3, weight_decay=0.05, fused=True))
param_scheduler = dict(warmup=1, end=12, eta_min=0)
train_cfg = dict(max_epochs=12)
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=4, max_keep_ckpts=1))
custom_hooks = _base_.custom_hooks + [
    dict(type='mmssl.KNNHook', data=data_root, interval=12, at_start=True, batch_size=256, num_workers=1)
]
auto_scale_lr = dict(base_batch_size=128)
