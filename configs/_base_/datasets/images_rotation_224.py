# The input of rotation prediction (https://arxiv.org/abs/1803.07728) with ResNet-50: a random crop of 8 to
# 100 % of the area resized to 224x224 (bilinear), and a flip. The model rotates the images.
_base_ = './images.py'
train_pipeline = [
    dict(
        type='mmssl.LoadRandomResizedCrop', scale=224, crop_ratio_range=(0.08, 1.0), interpolation='bilinear'
    ),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs'),
]
train_dataloader = dict(batch_size=16, dataset=dict(pipeline=train_pipeline))
