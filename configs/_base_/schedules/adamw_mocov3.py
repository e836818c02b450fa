# MoCo v3's recipe for ViT: AdamW, base learning rate 1.5e-4 for a batch of 256, weight decay 0.1 of all
# parameters, biases, norms and class token among them, linear warm-up of 40 epochs from 0, half a cosine to
# 0, every iteration.
optim_wrapper = dict(
    type='mmssl.AmpOptimWrapper',
    dtype='bfloat16',
    constructor='mmssl.MergedOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=1.5e-4 * 4096 / 256, weight_decay=0.1, fused=True),
)
param_scheduler = dict(
    type='mmssl.WarmupCosineLR', warmup=40, end=300, by_epoch=True, convert_to_iter_based=True
)
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=300)
auto_scale_lr = dict(base_batch_size=4096)
