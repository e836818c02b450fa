# MoCo v3's recipe for ResNet-50: LARS, base learning rate 0.6 for a batch of 256, weight decay 1e-6 (biases
# and batch norms are neither decayed nor scaled), linear warm-up of 10 epochs from 0, half a cosine to 0,
# every iteration.
optim_wrapper = dict(
    type='mmssl.AmpOptimWrapper',
    dtype='bfloat16',
    constructor='mmssl.MergedOptimWrapperConstructor',
    optimizer=dict(type='mmssl.LARS', lr=0.6 * 4096 / 256, weight_decay=1e-6, momentum=0.9),
)
param_scheduler = dict(
    type='mmssl.WarmupCosineLR', warmup=10, end=100, by_epoch=True, convert_to_iter_based=True
)
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=100)
auto_scale_lr = dict(base_batch_size=4096)
