# Ten iterations of rotation prediction on the generated demo data, CPU, well under a minute; the tests run
# it.
#
#   python tools/train.py configs/smoke/rotation.py
_base_ = '../_base_/smoke_pretext.py'
model = dict(type='mmssl.RotationPrediction', head=dict(type='mmssl.PretextHead', in_channels=128))
train_pipeline = [
    dict(type='mmssl.LoadRandomResizedCrop', scale=32, crop_ratio_range=(0.2, 1.0), interpolation='bilinear'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
