# Ten iterations of a small GCN on the generated demo data: well under a minute on a CPU; the tests run it.
#
#   python tools/train.py configs/smoke/gcn.py
default_scope = 'mmseg'
_base_ = ['../_base_/schedules/sgd_seg.py', '../_base_/seg_runtime.py']
data_preprocessor = dict(
    type='mmssl.SegDataPreProcessor',
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    bgr_to_rgb=True,
    pad_val=0,
    seg_pad_val=255,
    size=(64, 64),
)
model = dict(
    type='mmssl.EncoderDecoder',
    data_preprocessor=data_preprocessor,
    backbone=dict(type='ResNet', depth=18, stem_channels=8, base_channels=8, norm_cfg=dict(type='BN')),
    decode_head=dict(
        type='mmssl.GlobalConvHead',
        in_channels=[8, 16, 32, 64],
        num_classes=11,
        kernel_size=5,
        loss_decode=dict(type='CrossEntropyLoss', avg_non_ignore=True),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
train_pipeline = [
    dict(type='mmssl.LoadImage'),
    dict(type='mmssl.LoadLabelMap'),
    dict(type='Resize', scale=(96, 72)),
    dict(type='RandomCrop', crop_size=(64, 64)),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='mmssl.LoadImage'),
    dict(type='Resize', scale=(96, 72)),
    dict(type='mmssl.LoadLabelMap'),
    dict(type='PackSegInputs'),
]
metainfo = dict(
    classes=('background', 'zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine'),
    palette=[[23 * n, 255 - 23 * n, 90] for n in range(11)],
)
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='BaseSegDataset',
        data_root='data/demo/scenes',
        img_suffix='.jpg',
        seg_map_suffix='.png',
        data_prefix=dict(img_path='images/train', seg_map_path='labels/train'),
        metainfo=metainfo,
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='BaseSegDataset',
        data_root='data/demo/scenes',
        img_suffix='.jpg',
        seg_map_suffix='.png',
        data_prefix=dict(img_path='images/val', seg_map_path='labels/val'),
        metainfo=metainfo,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = [dict(type='mmssl.SegmentationMetric'), dict(type='mmssl.BoundaryMetric')]
test_evaluator = val_evaluator
param_scheduler = [dict(type='PolyLR', eta_min=1e-4, power=0.9, begin=0, end=10, by_epoch=False)]
train_cfg = dict(max_iters=10, val_interval=10)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=5, save_best=None))
auto_scale_lr = dict(base_batch_size=4)
