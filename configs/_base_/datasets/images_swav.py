# Any folder of images; eight views of each, as SwAV's released code draws them: two crops of 14 to 100 % of the area at 224x224, six of
# 5 to 14 % at 96x96 (bilinear), colour jitter (0.8, 0.8, 0.8, 0.2) with probability 0.8, grey 0.2, Gaussian blur 0.5, and a flip. The
# standard deviation of red is the released code's 0.228.
data_preprocessor = dict(
    type='SelfSupDataPreprocessor',
    mean=[123.675, 116.28, 103.53],
    std=[58.14, 57.12, 57.375],
    to_rgb=True,
    non_blocking=True,
)
train_pipeline = [
    dict(type='mmssl.LoadViews', preset='swav', scale=224, local_scale=96, num_local=6),
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
