# Ten iterations of relative patch location on the generated demo data, CPU, well under a minute; the tests
# run it.
#
#   python tools/train.py configs/smoke/relative_location.py
_base_ = '../_base_/smoke.py'
model = dict(
    type='mmssl.RelativeLocation',
    backbone=dict(
        type='mmpretrain.ResNet', depth=18, stem_channels=16, base_channels=16, zero_init_residual=False
    ),
    head=dict(type='mmssl.PretextHead', in_channels=128, hid_channels=64),
    patch_size=16,
    gap=4,
    jitter=2,
)
train_pipeline = [
    dict(
        type='mmssl.LoadRandomResizedCrop',
        scale=64,
        crop_ratio_range=(0.35, 1.0),
        aspect_ratio_range=(1.0, 1.0),
    ),
    dict(type='PackInputs'),
]
train_dataloader = dict(batch_size=8, dataset=dict(pipeline=train_pipeline))
optim_wrapper = dict(
    type='mmssl.OptimWrapper',
    constructor='mmssl.MergedOptimWrapperConstructor',
    optimizer=dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=1e-4),
)
auto_scale_lr = dict(base_batch_size=8)
