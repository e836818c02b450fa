# The instances of coco_mini (80 and 79 images) and coco_light (100 and 100) as masks without classes, longest
# side 256.
train_pipeline = [
    dict(type='mmssl.LoadImage'),
    dict(type='mmssl.LoadMasks', max_masks=6),
    dict(type='mmssl.ResizeLongest', scale=256, ratio_range=(0.75, 1.75), min_pixels=16),
    dict(type='mmssl.FlipWithMasks'),
    dict(type='mmssl.PackPrompts'),
]
# masks stay at the size of the files
test_pipeline = [
    dict(type='mmssl.LoadImage'),
    dict(type='mmssl.ResizeLongest', scale=256),
    dict(type='mmssl.LoadMasks', max_area_fraction=1.0),
    dict(type='mmssl.PackPrompts'),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=1,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='mmengine.ConcatDataset',
        datasets=[
            dict(
                type='mmssl.CocoMasks',
                data_root='data/coco_minis',
                ann_file='coco_mini/annotations/instances_train2017.json',
                data_prefix=dict(img_path='coco_mini/train2017'),
                pipeline=train_pipeline,
            ),
            dict(
                type='mmssl.CocoMasks',
                data_root='data/coco_minis',
                ann_file='coco_light/instances_train2017.json',
                data_prefix=dict(img_path='coco_light/images/train2017'),
                pipeline=train_pipeline,
            ),
        ],
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=1,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='mmengine.ConcatDataset',
        datasets=[
            dict(
                type='mmssl.CocoMasks',
                data_root='data/coco_minis',
                ann_file='coco_mini/annotations/instances_val2017.json',
                data_prefix=dict(img_path='coco_mini/val2017'),
                test_mode=True,
                pipeline=test_pipeline,
            ),
            dict(
                type='mmssl.CocoMasks',
                data_root='data/coco_minis',
                ann_file='coco_light/instances_val2017.json',
                data_prefix=dict(img_path='coco_light/images/val2017'),
                test_mode=True,
                pipeline=test_pipeline,
            ),
        ],
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='mmssl.ClickMetric')
test_evaluator = val_evaluator
