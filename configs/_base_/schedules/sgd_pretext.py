# The pretext tasks with ResNet-50, as mmselfsup trains them: SGD with momentum, learning rate 0.2, warm-up of
# 5 epochs from a tenth, divided by 10 at epochs 30 and 50 of 70.
optim_wrapper = dict(
    type='mmssl.OptimWrapper',
    constructor='mmssl.MergedOptimWrapperConstructor',
    optimizer=dict(type='SGD', lr=0.2, momentum=0.9, weight_decay=1e-4),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, begin=0, end=5, by_epoch=True, convert_to_iter_based=True),
    dict(type='MultiStepLR', milestones=[30, 50], gamma=0.1, end=70, by_epoch=True),
]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=70)
