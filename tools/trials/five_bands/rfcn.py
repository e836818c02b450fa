# R-FCN on scenes of five bands; made for tools/trials/five_bands.py, which measures measured.py.
_base_ = ['mmssl::smoke/rfcn.py', './measured.py']
data_preprocessor = dict(mean=_base_.mean, std=_base_.std)
model = dict(
    data_preprocessor=data_preprocessor,
    backbone=dict(in_channels=5, stem_channels=16, base_channels=16),
    rpn_head=dict(in_channels=64),
    roi_head=dict(bbox_head=dict(in_channels=128, num_classes=4)),
)
loading = dict(type='mmssl.LoadImage', channels=5, value_range=_base_.value_range)
train_pipeline = [
    loading,
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(192, 192), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='mmssl.BandJitter'),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    loading,
    dict(type='Resize', scale=(192, 192), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
metainfo = dict(
    _delete_=True,
    classes=('rows', 'columns', 'checks', 'dots'),
    palette=[(60 * n, 255 - 60 * n, 90) for n in range(4)],
)
train_dataloader = dict(
    dataset=dict(
        data_root='scenes',
        ann_file='train.json',
        data_prefix=dict(img='images/train'),
        metainfo=metainfo,
        pipeline=train_pipeline,
    )
)
val_dataloader = dict(
    dataset=dict(
        data_root='scenes',
        ann_file='val.json',
        data_prefix=dict(img='images/val'),
        metainfo=metainfo,
        pipeline=test_pipeline,
    )
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file='scenes/val.json')
test_evaluator = val_evaluator
optim_wrapper = dict(optimizer=dict(lr=0.02))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, begin=0, end=20, by_epoch=False),
    dict(type='CosineAnnealingLR', eta_min=0, begin=20, end=300, by_epoch=False),
]
train_cfg = dict(max_iters=300, val_interval=300)
default_hooks = dict(logger=dict(interval=25), checkpoint=dict(interval=300))
