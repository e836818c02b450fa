# Ten iterations of relative patch location on the generated demo data, CPU, well under a minute; the tests
# run it.
#
#   python tools/train.py configs/smoke/relative_location.py
_base_ = '../_base_/smoke_pretext.py'
model = dict(
    type='mmssl.RelativeLocation',
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
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
