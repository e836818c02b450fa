# GCN on label maps: what every config of `mmssl finetune --task semantic` inherits. Classes, folder, backbone
# and length are set there. Recipe and rates are those of configs/tutorial.
default_scope = 'mmseg'
_base_ = ['../models/camvid_mobilenetv2.py', '../seg_runtime.py', './schedule.py']
data_preprocessor = dict(seg_pad_val=255)
model = dict(
    data_preprocessor=data_preprocessor,
    decode_head=dict(
        type='mmssl.GlobalConvHead',
        in_channels=[24, 32, 96, 320],
        kernel_size=7,
        num_classes=2,
        ignore_index=255,
        loss_decode=dict(type='CrossEntropyLoss', avg_non_ignore=True),
    ),
)
train_pipeline = [
    dict(type='mmssl.LoadImage'),
    dict(type='mmssl.LoadLabelMap'),
    dict(type='RandomResize', scale=(480, 360), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(256, 256), cat_max_ratio=0.75, ignore_index=255),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='mmssl.LoadImage'),
    dict(type='Resize', scale=(480, 360), keep_ratio=True),
    dict(type='mmssl.LoadLabelMap'),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(
    batch_size=6,
    num_workers=2,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='mmssl.SegmentationFolder',
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
        type='mmssl.SegmentationFolder',
        data_prefix=dict(img_path='images/val', seg_map_path='labels/val'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='mmssl.SegmentationMetric', ignore_index=255)
test_evaluator = val_evaluator
optim_wrapper = dict(type='mmssl.AmpOptimWrapper', optimizer=dict(lr=1e-3))
auto_scale_lr = dict(base_batch_size=6)
