# Pre-training on any folder of images, nested or flat, with labels or without, or on an archive of such a
# folder. Images travel to the device as bytes and are normalised there. What is drawn of each image is set by
# the file that has this one as its base: it gives `train_pipeline`.
data_preprocessor = dict(
    type='mmssl.SelfSupDataPreprocessor',
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    to_rgb=True,
)
train_dataloader = dict(
    batch_size=32,
    num_workers=8,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='mmssl.ImageFolder', data_root='data/imagenet', data_prefix='train'),
)
