# Mask R-CNN on outlines or masks in COCO's JSON: what every config of `mmssl finetune --task instance`
# inherits. Classes, files, backbone and length are set there.
default_scope = 'mmdet'
_base_ = ['mmdet::_base_/models/mask-rcnn_r50_fpn.py', '../det_runtime.py', './schedule.py']
data_preprocessor = dict(
    type='mmssl.DetDataPreprocessor',
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    bgr_to_rgb=True,
    pad_mask=True,
    pad_size_divisor=32,
)
# nothing inside a crowd is background
ignored = dict(assigner=dict(ignore_iof_thr=0.5))
model = dict(data_preprocessor=data_preprocessor, train_cfg=dict(rpn=ignored, rcnn=ignored))
train_pipeline = [
    dict(type='mmssl.LoadImage'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=(1000, 600), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='mmssl.LoadImage'),
    dict(type='Resize', scale=(1000, 600), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=2,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='CocoDataset', filter_cfg=dict(filter_empty_gt=True, min_size=1), pipeline=train_pipeline
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='CocoDataset', test_mode=True, pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='CocoMetric', metric=['bbox', 'segm'])
test_evaluator = val_evaluator
optim_wrapper = dict(optimizer=dict(lr=2e-4, weight_decay=0.05), clip_grad=dict(max_norm=10))
auto_scale_lr = dict(base_batch_size=4)
