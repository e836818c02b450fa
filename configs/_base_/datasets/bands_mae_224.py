# Images that are not 8-bit RGB, of any number of channels, for MAE: a random crop of 20 to 100 % of the
# area, a flip, and no other change. Each image is stretched by its own percentiles. A measured range is
# better: give `value_range`, `mean` and `std` of `mmssl stats DIR --out measured.py`, see docs/images.md; and
# model = dict(backbone=dict(in_channels=N), neck=dict(in_chans=N), head=dict(in_channels=N)).
_base_ = './images.py'
data_preprocessor = dict(mean=[127.5], std=[64.0], to_rgb=True)
train_pipeline = [
    dict(
        type='mmssl.LoadRandomResizedCrop',
        scale=224,
        crop_ratio_range=(0.2, 1.0),
        interpolation='bicubic',
        value_range='image',
    ),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs'),
]
train_dataloader = dict(batch_size=512, dataset=dict(pipeline=train_pipeline))
