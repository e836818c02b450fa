# Ten iterations of a small MoBY with a Swin backbone on the generated demo data, CPU, well under a minute;
# the tests run it.
#
#   python tools/train.py configs/smoke/moby.py
_base_ = '../_base_/smoke.py'
model = dict(
    type='mmssl.MoBY',
    backbone=dict(
        type='mmpretrain.SwinTransformer',
        arch=dict(embed_dims=16, depths=[2, 2], num_heads=[2, 4]),
        img_size=32,
        patch_size=4,
        window_size=4,
        out_indices=(1,),
        drop_path_rate=0.2,
    ),
    neck=dict(type='mmssl.MLP', dims=(32, 64, 16), bias=True),
    head=dict(type='mmssl.MLP', dims=(16, 64, 16), bias=True),
    queue_len=64,
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
    optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.999), weight_decay=0.05, fused=True),
    paramwise_cfg=dict(flat_decay_mult=0.0),
    clip_grad=dict(max_norm=5.0),
)
sync_bn = 'torch'
