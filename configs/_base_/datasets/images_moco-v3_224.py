# Any folder of images; two views of each, as MoCo v3's released code draws them: a crop of 8 to 100 % of the area (bilinear; its ResNet-50
# takes crop_ratio_range=(0.2, 1.0)), colour jitter (0.4, 0.4, 0.2, 0.1) with probability 0.8, grey 0.2, a flip; Gaussian blur 1.0 and 0.1,
# solarisation 0 and 0.2 in the first and second view.
data_preprocessor = dict(
    type='SelfSupDataPreprocessor',
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    to_rgb=True,
    non_blocking=True,
)
train_pipeline = [
    dict(type='mmssl.LoadViews', preset='moco-v3', scale=224),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=32,
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
