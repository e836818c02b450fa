# MoCo v3 (https://arxiv.org/abs/2104.02057) on 64x64 photographs and one CPU core: a ResNet-18 of half the
# width, 10 epochs, under 10 minutes of computing for 6,000 images.
#
#   python tools/train.py configs/mocov3/mocov3_resnet18_1xb128-amp-coslr-10e_tiny-imagenet.py \
#       --data DIR_OR_ZIP
#
# DIR_OR_ZIP holds train/<class>/* and val/<class>/*; k-NN is measured at the start and at the end.
# Expected: see docs/results/selfsup.md, measured here.
_base_ = './mocov3_resnet50_8xb512-amp-coslr-100e_in1k.py'
data_root = 'data/tiny-imagenet'
model = dict(
    backbone=dict(depth=18, stem_channels=32, base_channels=32),
    neck=dict(dims=(256, 1024, 128)),
    head=dict(predictor=dict(dims=(128, 1024, 128)), temperature=0.2),
)
train_pipeline = [
    dict(
        type='mmssl.LoadViews', preset='moco-v3', scale=64, crop_ratio_range=(0.2, 1.0), blur_sigma=(0.1, 0.6)
    ),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=128,
    num_workers=1,
    dataset=dict(data_root=data_root, data_prefix='train', pipeline=train_pipeline),
)
optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=2e-3, weight_decay=1e-2, fused=True))
param_scheduler = dict(warmup=1, end=10)
train_cfg = dict(max_epochs=10)
default_hooks = dict(logger=dict(interval=10))
custom_hooks = _base_.custom_hooks + [
    dict(
        type='mmssl.KNNHook',
        data=data_root,
        interval=5,
        at_start=True,
        image_size=64,
        batch_size=256,
        num_workers=1,
    )
]
auto_scale_lr = dict(base_batch_size=128)
