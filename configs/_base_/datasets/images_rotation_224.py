# Any folder of images, as for rotation prediction (https://arxiv.org/abs/1803.07728) with ResNet-50: a random crop of 8 to 100 % of the
# area resized to 224x224 (bilinear), and a flip. The model turns the images.
data_preprocessor = dict(
    type='SelfSupDataPreprocessor',
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    to_rgb=True,
    non_blocking=True,
)
train_pipeline = [
    dict(
        type='mmssl.LoadRandomResizedCrop', scale=224, crop_ratio_range=(0.08, 1.0), interpolation='bilinear'
    ),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=16,
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
