# Ten iterations of jigsaw puzzles on the generated demo data, CPU, well under a minute; the tests run it.
#
#   python tools/train.py configs/smoke/jigsaw.py
_base_ = '../_base_/smoke.py'
model = dict(
    type='mmssl.Jigsaw',
    backbone=dict(
        type='mmpretrain.ResNet', depth=18, stem_channels=16, base_channels=16, zero_init_residual=False
    ),
    head=dict(type='mmssl.PretextHead', in_channels=128),
    num_permutations=16,
    tile_size=12,
)
train_pipeline = [
    dict(type='mmssl.LoadRandomResizedCrop', scale=48, crop_ratio_range=(0.2, 1.0), interpolation='bilinear'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs'),
]
train_dataloader = dict(batch_size=8, dataset=dict(pipeline=train_pipeline))
optim_wrapper = dict(
    type='mmssl.OptimWrapper',
    constructor='mmssl.MergedOptimWrapperConstructor',
    optimizer=dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=1e-4),
)
auto_scale_lr = dict(base_batch_size=8)
