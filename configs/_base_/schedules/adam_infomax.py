# Deep InfoMax (appendix A.1): Adam, learning rate 1e-4 throughout, batch 64, 1000 epochs on CIFAR. No decay,
# single precision.
optim_wrapper = dict(
    type='mmssl.OptimWrapper',
    constructor='mmssl.MergedOptimWrapperConstructor',
    optimizer=dict(type='Adam', lr=1e-4, fused=True),
)
param_scheduler = dict(type='ConstantLR', factor=1.0, end=1000, by_epoch=True)
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=1000)
auto_scale_lr = dict(base_batch_size=64)
