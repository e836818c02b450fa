# What all runs of the promptable segmenter have in common, on top of runtime.py. It needs none of mmdet,
# mmseg and mmpretrain; the scope names one because mmengine expects one.
_base_ = './runtime.py'
default_hooks = dict(
    logger=dict(log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=5000, save_best='mIoU@1', rule='greater'),
)
log_processor = dict(by_epoch=False)
train_cfg = dict(type='IterBasedTrainLoop')
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
