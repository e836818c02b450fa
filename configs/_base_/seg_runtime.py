# What all segmentation runs have in common, on top of runtime.py.
_base_ = './runtime.py'
default_hooks = dict(
    logger=dict(log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=4000, save_best='mIoU'),
    visualization=dict(type='SegVisualizationHook'),
)
visualizer = dict(type='SegLocalVisualizer', name='visualizer')
log_processor = dict(by_epoch=False)
tta_model = dict(type='SegTTAModel')
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
