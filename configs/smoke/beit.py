# Ten iterations of a small BEiT on the generated demo data: well under a minute on a CPU; the tests run it.
# The tokens are those of centroids drawn from the run's seed, an arbitrary division of the patches: enough to
# see that everything runs, not to learn well.
#
#   python tools/train.py configs/smoke/beit.py
_base_ = '../_base_/smoke.py'
model = dict(
    type='mmssl.BEiT',
    backbone=dict(
        type='mmssl.BEiTViT',
        arch=dict(embed_dims=64, num_layers=2, num_heads=4, feedforward_channels=128),
        img_size=48,
        patch_size=8,
        drop_path_rate=0.1,
    ),
    tokenizer=dict(type='mmssl.KMeansTokenizer', checkpoint='random', num_tokens=64, patch_size=8),
    num_masked=14,
    min_masked=4,
)
train_pipeline = [
    dict(type='mmssl.LoadBEiTViews', scale=48, second_scale=None, crop_ratio_range=(0.2, 1.0), jitter=0.4),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
optim_wrapper = dict(
    type='mmssl.AmpOptimWrapper',
    dtype='bfloat16',
    constructor='mmssl.MergedOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=1.5e-3, betas=(0.9, 0.999), weight_decay=0.05, fused=True),
    clip_grad=dict(max_norm=3.0),
    paramwise_cfg=dict(flat_decay_mult=0.0, custom_keys=dict(cls_token=dict(decay_mult=0.0))),
)
