# One view: a crop of 20 to 100 % of the area resized to 224x224 (bicubic), and a flip. The model gets a list
# of one batch; methods that take one batch of images use images_mae_224.py.
_base_ = './images.py'
train_pipeline = [
    dict(type='mmssl.LoadViews', preset='single', scale=224),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
