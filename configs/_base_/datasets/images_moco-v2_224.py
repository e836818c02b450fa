# The two views of MoCo v2's released code ("aug+"): a crop of 20 to 100 % of the area (bilinear), colour
# jitter (0.4, 0.4, 0.4, 0.1) with probability 0.8, grey 0.2, Gaussian blur 0.5, and a flip.
_base_ = './images.py'
train_pipeline = [
    dict(type='mmssl.LoadViews', preset='moco-v2', scale=224),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
