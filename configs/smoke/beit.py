# Ten iterations of a small BEiT on the generated demo data, CPU, well under a minute; the tests run it. The tokens are those of centroids
# drawn from the run's seed, an arbitrary division of the patches: enough to see that everything runs, not to learn well.
#
#   python tools/train.py configs/smoke/beit.py
default_scope = 'mmpretrain'
_base_ = [
    '../_base_/datasets/images_beit_224.py',
    '../_base_/schedules/adamw_beit.py',
    '../_base_/runtime.py',
]
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
train_dataloader = dict(
    batch_size=16,
    num_workers=0,
    persistent_workers=False,
    pin_memory=False,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(data_root='data/demo/imagenet', data_prefix='train', pipeline=train_pipeline),
)
param_scheduler = dict(_delete_=True, type='mmssl.WarmupCosineLR', warmup=2, end=10, by_epoch=False)
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=10)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(by_epoch=False, interval=5))
auto_scale_lr = dict(base_batch_size=16)
log_processor = dict(by_epoch=False)
