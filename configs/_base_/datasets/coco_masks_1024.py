# The instances of COCO 2017 as masks without classes, longest side 1024.
train_pipeline = [
    dict(type='mmssl.LoadImage'),
    dict(type='mmssl.LoadMasks', max_masks=16),
    dict(type='mmssl.ResizeLongest', scale=1024, ratio_range=(0.5, 2.0), min_pixels=16),
    dict(type='mmssl.FlipWithMasks'),
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
    batch_size=4,
    num_workers=4,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='mmssl.CocoMasks',
        data_root='data/coco',
        ann_file='annotations/instances_train2017.json',
        data_prefix=dict(img_path='train2017'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='mmssl.CocoMasks',
        data_root='data/coco',
        ann_file='annotations/instances_val2017.json',
        data_prefix=dict(img_path='val2017'),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='mmssl.ClickMetric')
test_evaluator = val_evaluator
