# SA-1B: sa_*/sa_*.jpg with a JSON file of run lengths beside each, without augmentation; every 1000th image
# for evaluation has to be moved to val by hand, the data set has no split.
train_pipeline = [
    dict(type='mmssl.LoadImage'),
    dict(type='mmssl.LoadMasks', max_masks=64),
    dict(type='mmssl.ResizeLongest', scale=1024),
    dict(type='mmssl.PackPrompts'),
]
# masks stay at the size of the files
test_pipeline = [
    dict(type='mmssl.LoadImage'),
    dict(type='mmssl.ResizeLongest', scale=1024),
    dict(type='mmssl.LoadMasks', max_area_fraction=1.0),
    dict(type='mmssl.PackPrompts'),
]
train_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='mmssl.SA1BDataset',
        data_root='data/sa1b',
        data_prefix=dict(img_path='train'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='mmssl.SA1BDataset',
        data_root='data/sa1b',
        data_prefix=dict(img_path='val'),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='mmssl.ClickMetric')
test_evaluator = val_evaluator
