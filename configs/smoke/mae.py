# Ten iterations of a small MAE on the generated demo data: well under a minute on a CPU; the tests run it.
#
#   python tools/train.py configs/smoke/mae.py
_base_ = '../_base_/smoke.py'
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
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
optim_wrapper = dict(
    type='mmssl.AmpOptimWrapper',
    dtype='bfloat16',
    constructor='mmssl.MergedOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.95), weight_decay=0.05, fused=True),
    paramwise_cfg=dict(flat_decay_mult=0.0),
)
