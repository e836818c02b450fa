# MoCo's pre-training recipe for a batch of 8 x 32: SGD with momentum, all parameters decayed, float32. The
# learning rate falls along half a cosine, once an epoch (v2); v1 divides it by 10 at epochs 120 and 160.
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='mmssl.MergedOptimWrapperConstructor',
    optimizer=dict(type='SGD', lr=0.03, momentum=0.9, weight_decay=1e-4, fused=True),
)
param_scheduler = dict(type='mmssl.WarmupCosineLR', warmup=0, end=200, by_epoch=True)
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=200)
auto_scale_lr = dict(base_batch_size=256)
