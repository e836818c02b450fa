# Ten iterations of a small DINO on the generated demo data: well under a minute on a CPU; the tests run it.
#
#   python tools/train.py configs/smoke/dino.py
_base_ = '../_base_/smoke.py'
model = dict(
    type='mmssl.DINO',
    backbone=dict(
        type='mmssl.DINOViT',
        arch=dict(embed_dims=64, num_layers=2, num_heads=4, feedforward_channels=128),
        img_size=48,
        patch_size=8,
        drop_path_rate=0.1,
    ),
    head=dict(type='mmssl.DINOHead', in_dim=64, out_dim=256, hidden_dim=128, bottleneck_dim=32),
    num_crops=5,
    momentum=0.9,
    freeze_last_layer=0,
)
train_pipeline = [
    dict(type='mmssl.LoadViews', preset='dino', scale=48, local_scale=24, num_local=3),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
optim_wrapper = dict(
    type='mmssl.AmpOptimWrapper',
    dtype='bfloat16',
    constructor='mmssl.MergedOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.999), weight_decay=0.04, fused=True),
    paramwise_cfg=dict(flat_decay_mult=0.0),
    clip_grad=dict(type='each', max_norm=3.0),
)
param_scheduler = [
    dict(type='mmssl.WarmupCosineLR', warmup=2, end=10, by_epoch=False),
    dict(type='mmssl.CosineWeightDecay', final=0.4, end=10, by_epoch=False),
]
