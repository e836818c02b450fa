# The eight views of SwAV's released code: two crops of 14 to 100 % of the area at 224x224, six of 5 to 14 %
# at 96x96 (bilinear), colour jitter (0.8, 0.8, 0.8, 0.2) with probability 0.8, grey 0.2, Gaussian blur 0.5,
# and a flip. The standard deviation of red is the released code's 0.228.
_base_ = './images.py'
data_preprocessor = dict(std=[58.14, 57.12, 57.375])
train_pipeline = [
    dict(type='mmssl.LoadViews', preset='swav', scale=224, local_scale=96, num_local=6),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
