# Ten iterations of a small MoCo v3 on the generated demo data: well under a minute on a CPU; the tests run
# it.
#
#   python tools/train.py configs/smoke/mocov3.py
_base_ = '../_base_/smoke.py'
model = dict(
    type='mmssl.MoCoV3',
    backbone=dict(
        type='mmssl.MoCoV3ViT',
        arch=dict(embed_dims=64, num_layers=2, num_heads=4, feedforward_channels=128),
        img_size=32,
        patch_size=8,
    ),
    neck=dict(type='mmssl.MLP', dims=(64, 128, 128, 32), last_bn=True),
    head=dict(
        type='mmssl.MoCoV3Head',
        predictor=dict(type='mmssl.MLP', dims=(32, 128, 32), last_bn=True),
        temperature=0.2,
    ),
)
train_pipeline = [
    dict(type='mmssl.LoadViews', preset='moco-v3', scale=32),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
optim_wrapper = dict(
    type='mmssl.AmpOptimWrapper',
    dtype='bfloat16',
    constructor='mmssl.MergedOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.1, fused=True),
)
sync_bn = 'torch'
