# Any folder of images of the size of CIFAR's, as Deep InfoMax sees them: whole, 32x32, nothing drawn. Larger ones are cut to their middle.
data_preprocessor = dict(
    type='SelfSupDataPreprocessor',
    mean=[125.307, 122.961, 113.8575],
    std=[51.5865, 50.847, 51.255],
    to_rgb=True,
    non_blocking=True,
)
train_pipeline = [
    dict(type='mmssl.LoadCenterCrop', scale=32, ratio=1.0),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=64,
    num_workers=4,
    persistent_workers=True,
    pin_memory=True,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='mmssl.ImageFolder', data_root='data/cifar10', data_prefix='train', pipeline=train_pipeline
    ),
)
