# MAE's pre-training recipe: AdamW, linear warm-up of 40 epochs from 0, half a cosine to 0, every iteration.
# Weights with more than one dimension are decayed, class and mask token among them; biases and norms are not.
# No clipping.
optim_wrapper = dict(
    type='mmssl.AmpOptimWrapper',
    dtype='bfloat16',
    constructor='mmssl.MergedOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=1.5e-4 * 4096 / 256, betas=(0.9, 0.95), weight_decay=0.05, fused=True),
    paramwise_cfg=dict(flat_decay_mult=0.0),
)
param_scheduler = dict(
    type='mmssl.WarmupCosineLR', warmup=40, end=300, by_epoch=True, convert_to_iter_based=True
)
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=300)
auto_scale_lr = dict(base_batch_size=4096)
