# Two views as in appendix B of BYOL (https://arxiv.org/abs/2006.07733): a crop of 8 to 100 % of the area
# (bicubic), colour jitter (0.4, 0.4, 0.2, 0.1) with probability 0.8, grey 0.2, a flip; Gaussian blur 1.0 and
# 0.1, solarisation 0 and 0.2 in the first and second view.
_base_ = './images.py'
train_pipeline = [
    dict(type='mmssl.LoadViews', preset='byol', scale=224),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
