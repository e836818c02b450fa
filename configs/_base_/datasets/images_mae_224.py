# The augmentation of MAE's released code: a random crop of 20 to 100 % of the area resized to 224x224
# (bicubic), and a flip.
_base_ = './images.py'
train_pipeline = [
    dict(type='mmssl.LoadRandomResizedCrop', scale=224, crop_ratio_range=(0.2, 1.0), interpolation='bicubic'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs'),
]
train_dataloader = dict(batch_size=512, dataset=dict(pipeline=train_pipeline))
