# Classification with the light augmentation of linear probing: a crop of 8 to 100 % of the area and a flip,
# bilinear.
_base_ = './imagenet_224.py'
train_pipeline = [
    dict(
        type='mmssl.LoadRandomResizedCrop', scale=224, crop_ratio_range=(0.08, 1.0), interpolation='bilinear'
    ),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='mmssl.LoadCenterCrop', scale=224, ratio=224 / 256, interpolation='bilinear'),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
