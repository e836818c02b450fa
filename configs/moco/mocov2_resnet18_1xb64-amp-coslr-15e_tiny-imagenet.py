# MoCo v2 (https://arxiv.org/abs/2003.04297) on 64x64 photographs and one CPU core: the first three stages of
# a ResNet-18 of half the width, 15 epochs, under ten minutes of CPU for 6,000 images. Adapted to
# 1,400 steps: AdamW, a short queue, since keys age fast when the encoder changes fast, weaker colour jitter,
# neither grey nor blur. Batch norm is shuffled over two groups of 32.
#
#   python tools/train.py configs/moco/mocov2_resnet18_1xb64-amp-coslr-15e_tiny-imagenet.py --data DIR_OR_ZIP
#
# DIR_OR_ZIP holds train/<class>/* and val/<class>/*; k-NN is measured at the start and at the end.
# Expected: see docs/results/selfsup.md, measured here.
default_scope = 'mmpretrain'
_base_ = [
    '../_base_/models/mocov2_resnet50.py',
    '../_base_/datasets/images_moco-v2_224.py',
    '../_base_/schedules/sgd_moco.py',
    '../_base_/runtime.py',
]
data_root = 'data/tiny-imagenet'
model = dict(
    backbone=dict(
        depth=18,
        stem_channels=32,
        base_channels=32,
        num_stages=3,
        strides=(1, 2, 2),
        dilations=(1, 1, 1),
        out_indices=(2,),
    ),
    neck=dict(in_channels=128, hid_channels=128),
    queue_len=1024,
    momentum=0.99,
    bn_groups=2,
)
train_pipeline = [
    dict(
        type='mmssl.LoadViews',
        preset='moco-v2',
        scale=64,
        jitter=(0.2, 0.2, 0.2, 0.05),
        gray_prob=0.0,
        blur_prob=0.0,
    ),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=64,
    num_workers=1,
    dataset=dict(data_root=data_root, data_prefix='train', pipeline=train_pipeline),
)
optim_wrapper = dict(
    _delete_=True,
    type='mmssl.AmpOptimWrapper',
    dtype='bfloat16',
    constructor='mmssl.MergedOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.05, fused=True),
)
param_scheduler = dict(
    _delete_=True, type='mmssl.WarmupCosineLR', warmup=0.5, end=15, by_epoch=True, convert_to_iter_based=True
)
train_cfg = dict(max_epochs=15)
default_hooks = dict(logger=dict(interval=30), checkpoint=dict(interval=5, max_keep_ckpts=1))
custom_hooks = _base_.custom_hooks + [
    dict(type='mmssl.KNNHook', data=data_root, interval=15, at_start=True, batch_size=256, num_workers=1)
]
auto_scale_lr = dict(base_batch_size=64)
