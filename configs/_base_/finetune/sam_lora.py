# Segment Anything with low-rank updates in its encoder, masks from boxes: what every config of
# `mmssl finetune --task instance --recipe sam-lora` inherits. Model, files and length are set there.
default_scope = 'mmpretrain'
_base_ = '../sam_runtime.py'
data_preprocessor = dict(
    type='mmssl.ImgDataPreprocessor',
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    bgr_to_rgb=True,
    pad_size_divisor=1024,
)
model = dict(
    type='mmssl.InteractiveSAM',
    data_preprocessor=data_preprocessor,
    # prompt encoder and mask decoder are small, and learn in full
    tune='lora',
    lora=dict(rank=4),
    # a rough box, one prediction, one mask
    box_prob=1.0,
    rounds=1,
    silent_rounds=0,
    ambiguous=(),
    max_masks=16,
    clicks=dict(clicks=1),
)
train_pipeline = [
    dict(type='mmssl.LoadImage'),
    dict(type='mmssl.LoadMasks', max_masks=16),
    dict(type='mmssl.ResizeLongest', scale=1024, ratio_range=(0.75, 1.5), min_pixels=16),
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
    batch_size=2,
    num_workers=2,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(type='mmssl.CocoMasks', pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='mmssl.CocoMasks', test_mode=True, pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='mmssl.ClickMetric')
test_evaluator = val_evaluator
optim_wrapper = dict(
    type='mmssl.AmpOptimWrapper',
    constructor='mmssl.MergedOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=2e-4, weight_decay=0.01),
    clip_grad=dict(max_norm=1.0),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
)
train_cfg = dict(max_iters=1000, val_interval=1000)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, begin=0, end=50, by_epoch=False),
    dict(type='CosineAnnealingLR', eta_min=0, begin=50, end=1000, by_epoch=False),
]
default_hooks = dict(checkpoint=dict(save_best='box_mIoU'))
# sam.pth holds the weights with the updates merged
custom_hooks = [
    dict(type='mmssl.SanityHook'),
    dict(type='mmssl.NonFiniteHook', policy='stop'),
    dict(type='mmssl.BadFilesHook'),
    dict(type='mmssl.ExportSAMHook'),
]
auto_scale_lr = dict(base_batch_size=2)
