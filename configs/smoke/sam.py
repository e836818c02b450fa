# Ten iterations of a small Segment Anything on the generated demo data, CPU, well under a minute; the tests
# run it.
#
#   python tools/train.py configs/smoke/sam.py
default_scope = 'mmpretrain'
_base_ = '../_base_/sam_runtime.py'
data_preprocessor = dict(
    type='mmssl.ImgDataPreprocessor',
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    bgr_to_rgb=True,
    pad_size_divisor=64,
)
model = dict(
    type='mmssl.InteractiveSAM',
    data_preprocessor=data_preprocessor,
    rounds=4,
    silent_rounds=2,
    max_masks=4,
    clicks=dict(clicks=2),
    model=dict(
        type='mmssl.SAM',
        image_encoder=dict(
            type='mmssl.SAMImageEncoder',
            img_size=64,
            embed_dim=32,
            depth=2,
            num_heads=2,
            out_chans=32,
            window_size=3,
            global_attn_indexes=(1,),
        ),
        mask_decoder=dict(transformer=dict(num_heads=4, mlp_dim=64), iou_head_hidden_dim=32),
    ),
)
train_pipeline = [
    dict(type='mmssl.LoadImage'),
    dict(type='mmssl.LoadMasks', max_masks=4),
    dict(type='mmssl.ResizeLongest', scale=64, ratio_range=(0.8, 1.5)),
    dict(type='mmssl.FlipWithMasks'),
    dict(type='mmssl.PackPrompts'),
]
test_pipeline = [
    dict(type='mmssl.LoadImage'),
    dict(type='mmssl.ResizeLongest', scale=64),
    dict(type='mmssl.LoadMasks'),
    dict(type='mmssl.PackPrompts'),
]
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='mmssl.CocoMasks',
        data_root='data/demo/scenes',
        ann_file='annotations/instances_train.json',
        data_prefix=dict(img_path='images/train'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='mmssl.CocoMasks',
        data_root='data/demo/scenes',
        ann_file='annotations/instances_val.json',
        data_prefix=dict(img_path='images/val'),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='mmssl.ClickMetric')
test_evaluator = val_evaluator
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='mmssl.MergedOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.1),
    paramwise_cfg=dict(layer_decay_rate=0.8),
)
param_scheduler = [dict(type='LinearLR', start_factor=0.1, begin=0, end=10, by_epoch=False)]
train_cfg = dict(max_iters=10, val_interval=10)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=5, save_best=None))
custom_hooks = [dict(type='mmssl.ExportSAMHook')]
auto_scale_lr = dict(base_batch_size=2)
