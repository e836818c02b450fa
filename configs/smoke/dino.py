# Ten iterations of a small DINO on the generated demo data, CPU, well under a minute; the tests run it.
#
#   python tools/train.py configs/smoke/dino.py
default_scope = 'mmpretrain'
_base_ = ['../_base_/datasets/images_dino.py', '../_base_/schedules/adamw_dino.py', '../_base_/runtime.py']
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
train_dataloader = dict(
    batch_size=16,
    num_workers=0,
    persistent_workers=False,
    pin_memory=False,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(data_root='data/demo/imagenet', data_prefix='train', pipeline=train_pipeline),
)
param_scheduler = [
    dict(type='mmssl.WarmupCosineLR', warmup=2, end=10, by_epoch=False),
    dict(type='mmssl.CosineWeightDecay', final=0.4, end=10, by_epoch=False),
]
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=10)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(by_epoch=False, interval=5))
auto_scale_lr = dict(base_batch_size=16)
log_processor = dict(by_epoch=False)
