# R-FCN on boxes in COCO's JSON: what every config of `mmssl finetune --task detect` inherits. Classes, files,
# backbone, anchors and length are set there. Recipe and rates are those of configs/tutorial.
default_scope = 'mmdet'
_base_ = ['../models/bccd_mobilenetv2.py', '../det_runtime.py', './schedule.py']
model = dict(
    type='mmssl.RFCN',
    roi_head=dict(
        type='mmssl.RFCNRoIHead',
        bbox_head=dict(
            type='mmssl.RFCNBBoxHead',
            in_channels=320,
            num_classes=1,
            init_cfg=dict(
                type='Normal',
                layer='Conv2d',
                std=0.01,
                override=[
                    dict(type='Xavier', name='conv_new', distribution='uniform'),
                    dict(type='Normal', name='rfcn_cls', std=0.1),
                ],
            ),
        ),
    ),
    # nothing inside a crowd is background
    train_cfg=dict(
        rpn=dict(assigner=dict(ignore_iof_thr=0.5)),
        rcnn=dict(
            assigner=dict(ignore_iof_thr=0.5),
            sampler=dict(
                type='RandomSampler', num=128, pos_fraction=0.25, neg_pos_ub=-1, add_gt_as_proposals=True
            ),
        ),
    ),
)
train_pipeline = [
    dict(type='mmssl.LoadImage'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(1000, 600), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='mmssl.LoadImage'),
    dict(type='Resize', scale=(1000, 600), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
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
val_evaluator = dict(type='CocoMetric', metric='bbox')
test_evaluator = val_evaluator
# a vote is a mean of 49 bins, and every map gets a 49th of its gradient
optim_wrapper = dict(
    optimizer=dict(lr=5e-4),
    paramwise_cfg=dict(custom_keys=dict(roi_head=dict(lr_mult=3.0))),
    clip_grad=dict(max_norm=10),
)
auto_scale_lr = dict(base_batch_size=4)
