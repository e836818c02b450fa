# The ten views of DINO's released code: two crops of 40 to 100 % of the area at 224x224 (Gaussian blur 1.0
# and 0.1, solarisation 0 and 0.2), eight of 5 to 40 % at 96x96 (blur 0.5), bicubic; colour jitter (0.4, 0.4,
# 0.2, 0.1) with probability 0.8, grey 0.2, and a flip.
_base_ = './images.py'
train_pipeline = [
    dict(type='mmssl.LoadViews', preset='dino', scale=224, local_scale=96, num_local=8),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
