# VOC 2012 with the additional annotations, as mmseg has it; images and labels of any kind are read, or
# refused by the name of the file.
_base_ = 'mmseg::_base_/datasets/pascal_voc12_aug.py'
train_pipeline = [
    dict(type='mmssl.LoadImage'),
    dict(type='mmssl.LoadLabelMap'),
    dict(type='RandomResize', scale=(2048, 512), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(512, 512), cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='Pad', size=(512, 512)),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='mmssl.LoadImage'),
    dict(type='Resize', scale=(2048, 512), keep_ratio=True),
    dict(type='mmssl.LoadLabelMap'),
    dict(type='PackSegInputs'),
]
tta_pipeline = [
    dict(type='mmssl.LoadImage'),
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(type='Resize', scale_factor=factor, keep_ratio=True)
                for factor in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
            ],
            [
                dict(type='RandomFlip', prob=0.0, direction='horizontal'),
                dict(type='RandomFlip', prob=1.0, direction='horizontal'),
            ],
            [dict(type='mmssl.LoadLabelMap')],
            [dict(type='PackSegInputs')],
        ],
    ),
]
train_dataloader = dict(
    dataset=dict(
        datasets=[
            dict(
                type='PascalVOCDataset',
                data_root='data/VOCdevkit/VOC2012',
                data_prefix=dict(img_path='JPEGImages', seg_map_path=labels),
                ann_file=f'ImageSets/Segmentation/{split}.txt',
                pipeline=train_pipeline,
            )
            for split, labels in (('train', 'SegmentationClass'), ('aug', 'SegmentationClassAug'))
        ]
    )
)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
