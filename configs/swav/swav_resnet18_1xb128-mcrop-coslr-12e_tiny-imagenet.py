# SwAV (https://arxiv.org/abs/2006.09882) on 64x64 photographs and one CPU core: a ResNet-18 of half the
# width, 2 crops of 48 and 2 of 32 pixels, 512 prototypes, 12 epochs, under ten minutes of computing for 6,000
# images. Codes are sharper (epsilon) and colours milder than on ImageNet, and AdamW takes the place of LARC,
# so that it learns within some hundred steps.
#
#   python tools/train.py configs/swav/swav_resnet18_1xb128-mcrop-coslr-12e_tiny-imagenet.py --data DIR_OR_ZIP
#
# DIR_OR_ZIP holds train/<class>/* and val/<class>/*; k-NN is measured at the start, after six epochs and at
# the end.
# Expected: see docs/results/selfsup.md, measured here.
_base_ = './swav_resnet50_64xb64-mcrop-coslr-800e_in1k-224px-96px.py'
data_root = 'data/tiny-imagenet'
model = dict(
    backbone=dict(depth=18, stem_channels=32, base_channels=32),
    neck=dict(in_channels=256, hid_channels=512, out_channels=128),
    head=dict(num_prototypes=512, epsilon=0.015),
    freeze_prototypes=46,
)
train_pipeline = [
    dict(
        type='mmssl.LoadViews',
        preset='swav',
        scale=48,
        crop_ratio_range=(0.2, 1.0),
        num_local=2,
        local_scale=32,
        local_crop_ratio_range=(0.08, 0.3),
        jitter=(0.4, 0.4, 0.4, 0.1),
        blur_prob=0.0,
    ),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=128,
    num_workers=1,
    dataset=dict(data_root=data_root, data_prefix='train', pipeline=train_pipeline),
)
optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=2e-3, weight_decay=0.01, fused=True))
param_scheduler = dict(warmup=1, end=12, start_factor=0.0, eta_min=0.0)
train_cfg = dict(max_epochs=12)
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=6, max_keep_ckpts=1))
custom_hooks = _base_.custom_hooks + [
    dict(
        type='mmssl.KNNHook',
        data=data_root,
        interval=6,
        at_start=True,
        image_size=64,
        batch_size=256,
        num_workers=0,
    )
]
auto_scale_lr = dict(base_batch_size=128)
