# Context prediction (https://arxiv.org/abs/1505.05192) on 64x64 photographs and one CPU core: the first three
# stages of a ResNet-18 of half the width, nine patches of 24x24 from a crop of 96x96, 20 epochs, under ten
# minutes for 6,000 images.
#
#   python tools/train.py \
#       configs/pretext/relative-loc_resnet18-narrow_1xb64-coslr-20e_tiny-imagenet.py --data DIR_OR_ZIP
#
# DIR_OR_ZIP holds train/<class>/* and val/<class>/*; k-NN is measured at the start and at the end.
# Expected: see docs/results/selfsup.md, measured here.
_base_ = './relative-loc_resnet50_8xb64-steplr-70e_in1k.py'
data_root = 'data/tiny-imagenet'
model = dict(
    backbone=dict(
        depth=18,
        stem_channels=32,
        base_channels=32,
        # a fourth stage would get one pixel of so small a patch, and only its kernels' centres would learn
        num_stages=3,
        strides=(1, 2, 2),
        dilations=(1, 1, 1),
        out_indices=(2,),
    ),
    head=dict(in_channels=128, hid_channels=256),
    patch_size=24,
    gap=8,
    jitter=3,
    drop_prob=0.0,
)  # photographs of 64 pixels show no chromatic aberration
train_pipeline = [
    dict(
        type='mmssl.LoadRandomResizedCrop',
        scale=96,
        crop_ratio_range=(0.5, 1.0),
        aspect_ratio_range=(1.0, 1.0),
        interpolation='bicubic',
    ),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=64,
    num_workers=1,
    dataset=dict(data_root=data_root, data_prefix='train', pipeline=train_pipeline),
)
optim_wrapper = dict(optimizer=dict(lr=0.05, weight_decay=5e-4), paramwise_cfg=dict(_delete_=True))
param_scheduler = dict(
    _delete_=True, type='mmssl.WarmupCosineLR', warmup=1, end=20, by_epoch=True, convert_to_iter_based=True
)
train_cfg = dict(max_epochs=20)
default_hooks = dict(logger=dict(interval=10))
custom_hooks = _base_.custom_hooks + [
    dict(
        type='mmssl.KNNHook',
        data=data_root,
        interval=20,
        at_start=True,
        image_size=96,
        batch_size=256,
        num_workers=1,
    )
]
auto_scale_lr = dict(base_batch_size=64)
