# MAE of three layers on five bands; made for tools/trials/five_bands.py, which measures measured.py.
_base_ = ['mmssl::mae/mae_vit-mini-p8_1xb256-amp-coslr-40e_tiny-imagenet.py', './measured.py']
model = dict(
    backbone=dict(
        arch=dict(embed_dims=128, num_layers=3, num_heads=4, feedforward_channels=512),
        in_channels=5,
        img_size=32,
        patch_size=4,
    ),
    neck=dict(patch_size=4, in_chans=5, embed_dim=128, decoder_embed_dim=64, decoder_depth=1),
    head=dict(patch_size=4, in_channels=5),
)
data_preprocessor = dict(mean=_base_.mean, std=_base_.std)
train_pipeline = [
    dict(
        type='mmssl.LoadRandomResizedCrop',
        scale=32,
        crop_ratio_range=(0.4, 1.0),
        channels=5,
        value_range=_base_.value_range,
    ),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(data_root='images', pipeline=train_pipeline),
)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = dict(warmup=1, end=10)
train_cfg = dict(max_epochs=10)
custom_hooks = _base_.custom_hooks[:-1]
