# The two views of MoCo v1's released code: a crop of 20 to 100 % of the area (bilinear), grey with
# probability 0.2, then colour jitter 0.4 of brightness, contrast, saturation and hue, and a flip.
_base_ = './images.py'
train_pipeline = [
    dict(type='mmssl.LoadViews', preset='moco-v1', scale=224),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
