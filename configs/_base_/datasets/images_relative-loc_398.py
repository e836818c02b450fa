# Any folder of images, as context prediction (https://arxiv.org/abs/1505.05192) takes them: resized to 150,000 to 450,000 pixels, aspect
# ratio kept, of which a square of 398x398 holds the grid of patches (3 x 96, two gaps of 48, jitter of 7 on either side); that is 35 to
# 100 % of the area. The model cuts the patches.
data_preprocessor = dict(
    type='SelfSupDataPreprocessor',
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    to_rgb=True,
    non_blocking=True,
)
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
train_dataloader = dict(
    batch_size=64,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='mmssl.ImageFolder', data_root='data/imagenet', data_prefix='train', pipeline=train_pipeline
    ),
)
