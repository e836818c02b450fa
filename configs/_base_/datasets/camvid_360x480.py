# CamVid, 11 classes: images/{train,val}/*.jpg of 480x360, labels/{train,val}/*.png with 11 for void.
train_pipeline = [
    dict(type='mmssl.LoadImage'),
    dict(type='mmssl.LoadLabelMap'),
    dict(type='RandomResize', scale=(480, 360), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(256, 256), cat_max_ratio=0.75, ignore_index=11),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [dict(type='mmssl.LoadImage'), dict(type='mmssl.LoadLabelMap'), dict(type='PackSegInputs')]
train_dataloader = dict(
    batch_size=6,
    num_workers=2,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='mmssl.CamVid',
        data_root='data/camvid',
        data_prefix=dict(img_path='images/train', seg_map_path='labels/train'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='mmssl.CamVid',
        data_root='data/camvid',
        data_prefix=dict(img_path='images/val', seg_map_path='labels/val'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = [
    dict(type='mmssl.SegmentationMetric', ignore_index=11),
    dict(type='mmssl.BoundaryMetric', ignore_index=11),
]
test_evaluator = val_evaluator
