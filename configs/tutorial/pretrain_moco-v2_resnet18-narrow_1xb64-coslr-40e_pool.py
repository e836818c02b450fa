# MoCo v2 (https://arxiv.org/abs/2003.04297), the first step of docs/tutorial.md: a ResNet-18 of half the
# width from a random start, two crops of 112 pixels of each of the pooled, unlabelled training images of what
# follows, one CPU core.
#
#   python tools/train.py configs/tutorial/pretrain_moco-v2_resnet18-narrow_1xb64-coslr-40e_pool.py --data DIR
#
# DIR is any folder of images; that of the tutorial is made by tools/pool_images.py.
# Expected: see docs/results/transfer.md, measured here.
_base_ = '../moco/mocov2_resnet50_8xb32-coslr-200e_in1k.py'
data_root = 'data/pool'
model = dict(
    backbone=dict(depth=18, stem_channels=32, base_channels=32, out_indices=(3,)),
    neck=dict(in_channels=256, hid_channels=256),
    queue_len=1024,
    momentum=0.99,
    bn_groups=2,
)
train_pipeline = [
    dict(
        type='mmssl.LoadViews',
        preset='moco-v2',
        scale=112,
        crop_ratio_range=(0.1, 0.8),
        gray_prob=0.1,
        blur_prob=0.0,
    ),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=64, num_workers=1, dataset=dict(data_root=data_root, data_prefix='', pipeline=train_pipeline)
)
optim_wrapper = dict(
    _delete_=True,
    type='mmssl.AmpOptimWrapper',
    dtype='bfloat16',
    constructor='mmssl.MergedOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.05, fused=True),
)
param_scheduler = dict(
    _delete_=True, type='mmssl.WarmupCosineLR', warmup=1, end=40, by_epoch=True, convert_to_iter_based=True
)
train_cfg = dict(max_epochs=40)
default_hooks = dict(logger=dict(interval=35), checkpoint=dict(interval=10, max_keep_ckpts=1))
auto_scale_lr = dict(base_batch_size=64)
