# Rotation prediction (https://arxiv.org/abs/1803.07728) on 64x64 photographs and one CPU core: ResNet-18 of
# half the width, 11 epochs, under ten minutes for 6,000 images.
#
#   python tools/train.py \
#       configs/pretext/rotation-pred_resnet18-narrow_1xb64-coslr-11e_tiny-imagenet.py --data DIR_OR_ZIP
#
# DIR_OR_ZIP holds train/<class>/* and val/<class>/*; k-NN is measured at the start and at the end.
# Expected: see docs/results/selfsup.md, measured here.
_base_ = './rotation-pred_resnet50_8xb16-steplr-70e_in1k.py'
data_root = 'data/tiny-imagenet'
model = dict(backbone=dict(depth=18, stem_channels=32, base_channels=32), head=dict(in_channels=256))
train_pipeline = [
    dict(type='mmssl.LoadRandomResizedCrop', scale=48, crop_ratio_range=(0.4, 1.0), interpolation='bilinear'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=64,
    num_workers=1,
    dataset=dict(data_root=data_root, data_prefix='train', pipeline=train_pipeline),
)
optim_wrapper = dict(optimizer=dict(lr=0.05, weight_decay=5e-4))
param_scheduler = dict(
    _delete_=True, type='mmssl.WarmupCosineLR', warmup=1, end=11, by_epoch=True, convert_to_iter_based=True
)
train_cfg = dict(max_epochs=11)
default_hooks = dict(logger=dict(interval=10))
custom_hooks = _base_.custom_hooks + [
    dict(
        type='mmssl.KNNHook',
        data=data_root,
        interval=11,
        at_start=True,
        image_size=64,
        batch_size=256,
        num_workers=1,
    )
]
auto_scale_lr = dict(base_batch_size=64)
