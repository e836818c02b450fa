# Ten iterations of a small MAE on the generated demo data, CPU, well under a minute; the tests run it.
#
#   python tools/train.py configs/smoke/mae.py
default_scope = 'mmpretrain'
_base_ = ['../_base_/datasets/images_mae_224.py', '../_base_/schedules/adamw_mae.py', '../_base_/runtime.py']
model = dict(
    type='mmssl.MAE',
    backbone=dict(
        type='mmssl.MAEViT',
        arch=dict(embed_dims=64, num_layers=2, num_heads=4, feedforward_channels=128),
        img_size=48,
        patch_size=8,
        mask_ratio=0.75,
    ),
    neck=dict(
        type='mmssl.MAEDecoder',
        num_patches=36,
        patch_size=8,
        embed_dim=64,
        decoder_embed_dim=32,
        decoder_depth=1,
        decoder_num_heads=4,
    ),
    head=dict(type='mmssl.MAEHead', norm_pix=True, patch_size=8),
)
train_pipeline = [
    dict(type='mmssl.LoadRandomResizedCrop', scale=48, crop_ratio_range=(0.2, 1.0), interpolation='bicubic'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=16,
    num_workers=0,
    persistent_workers=False,
    pin_memory=False,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(data_root='data/demo/imagenet', data_prefix='train', pipeline=train_pipeline),
)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = dict(_delete_=True, type='mmssl.WarmupCosineLR', warmup=2, end=10, by_epoch=False)
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=10)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(by_epoch=False, interval=5))
auto_scale_lr = dict(base_batch_size=16)
log_processor = dict(by_epoch=False)
