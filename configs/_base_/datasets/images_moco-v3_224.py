# The two views of MoCo v3's released code: a crop of 8 to 100 % of the area (bilinear; its ResNet-50 takes
# crop_ratio_range=(0.2, 1.0)), colour jitter (0.4, 0.4, 0.2, 0.1) with probability 0.8, grey 0.2, a flip;
# Gaussian blur 1.0 and 0.1, solarisation 0 and 0.2 in the first and second view.
_base_ = './images.py'
train_pipeline = [
    dict(type='mmssl.LoadViews', preset='moco-v3', scale=224),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
