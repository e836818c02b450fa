# The budget of the detectors compared on BCCD.
_base_ = './sgd_det.py'
optim_wrapper = dict(optimizer=dict(lr=0.015), clip_grad=dict(max_norm=10))
train_cfg = dict(max_iters=600, val_interval=600)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.2, begin=0, end=40, by_epoch=False),
    dict(type='CosineAnnealingLR', eta_min=0, begin=40, end=600, by_epoch=False),
]
