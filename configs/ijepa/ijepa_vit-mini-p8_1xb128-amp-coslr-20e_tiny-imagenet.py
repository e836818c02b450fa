# I-JEPA (https://arxiv.org/abs/2301.08243) on 64x64 photographs and two CPU cores: six layers of 192
# channels, 20 epochs of 6,000 images. Fitted to 920 steps: momentum from 0.98.
#
#   python tools/train.py configs/ijepa/ijepa_vit-mini-p8_1xb128-amp-coslr-20e_tiny-imagenet.py \
#       --data DIR_OR_ZIP
#
# DIR_OR_ZIP holds train/<class>/* and val/<class>/*; k-NN is measured at the start and at the end.
# Expected: no figure; not measured here yet.
_base_ = './ijepa_vit-huge-p14_16xb128-amp-coslr-300e_in1k.py'
data_root = 'data/tiny-imagenet'
model = dict(
    backbone=dict(
        arch=dict(_delete_=True, embed_dims=192, num_layers=6, num_heads=6, feedforward_channels=768),
        img_size=64,
        patch_size=8,
    ),
    neck=dict(embed_dims=96, num_layers=3, num_heads=4),
    momentum=0.98,
)
train_pipeline = [
    dict(type='mmssl.LoadRandomResizedCrop', scale=64, crop_ratio_range=(0.3, 1.0), interpolation='bicubic'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=128,
    num_workers=1,
    dataset=dict(data_root=data_root, data_prefix='train', pipeline=train_pipeline),
)
param_scheduler = [
    dict(
        type='mmssl.WarmupCosineLR', warmup=2, end=20, eta_min=1e-6, by_epoch=True, convert_to_iter_based=True
    ),
    dict(type='mmssl.CosineWeightDecay', final=0.4, end=20, by_epoch=True, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=20)
default_hooks = dict(logger=dict(interval=10))
custom_hooks = _base_.custom_hooks + [
    dict(
        type='mmssl.KNNHook',
        data=data_root,
        interval=20,
        at_start=True,
        image_size=64,
        batch_size=256,
        num_workers=1,
    )
]
auto_scale_lr = dict(base_batch_size=128)
