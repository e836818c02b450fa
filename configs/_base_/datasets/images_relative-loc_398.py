# The input of context prediction (https://arxiv.org/abs/1505.05192): images resized to 150,000 to 450,000
# pixels with their aspect ratio, of which a square of 398x398 holds the grid of patches (3 x 96, two gaps of
# 48, jitter of 7 on either side); that is 35 to 100 % of the area. The model cuts out the patches.
_base_ = './images.py'
train_pipeline = [
    dict(
        type='mmssl.LoadRandomResizedCrop',
        scale=398,
        crop_ratio_range=(0.35, 1.0),
        aspect_ratio_range=(1.0, 1.0),
        interpolation='bicubic',
    ),
    dict(type='PackInputs'),
]
train_dataloader = dict(batch_size=64, dataset=dict(pipeline=train_pipeline))
