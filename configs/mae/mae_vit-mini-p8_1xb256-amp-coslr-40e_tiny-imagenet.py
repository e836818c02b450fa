# MAE (https://arxiv.org/abs/2111.06377) on 64x64 photographs and two CPU cores: six layers of 192 channels,
# 40 epochs, under 20 minutes for 6,000 images.
#
#   python tools/train.py configs/mae/mae_vit-mini-p8_1xb256-amp-coslr-40e_tiny-imagenet.py --data DIR_OR_ZIP
#
# DIR_OR_ZIP holds train/<class>/* and val/<class>/*; k-NN is measured at the start, every 20 epochs and at
# the end.
# Expected: see docs/results/mae.md, measured here.
_base_ = './mae_vit-base-p16_8xb512-amp-coslr-300e_in1k.py'
data_root = 'data/tiny-imagenet'
model = dict(
    backbone=dict(
        arch=dict(_delete_=True, embed_dims=192, num_layers=6, num_heads=6, feedforward_channels=768),
        img_size=64,
        patch_size=8,
        mask_ratio=0.75,
    ),
    neck=dict(
        num_patches=64,
        patch_size=8,
        embed_dim=192,
        decoder_embed_dim=96,
        decoder_depth=2,
        decoder_num_heads=4,
    ),
    head=dict(patch_size=8),
)
train_pipeline = [
    dict(type='mmssl.LoadRandomResizedCrop', scale=64, crop_ratio_range=(0.4, 1.0), interpolation='bicubic'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=256,
    num_workers=1,
    dataset=dict(data_root=data_root, data_prefix='train', pipeline=train_pipeline),
)
optim_wrapper = dict(optimizer=dict(lr=2e-3))
param_scheduler = dict(warmup=5, end=40)
train_cfg = dict(max_epochs=40)
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
auto_scale_lr = dict(base_batch_size=256)
