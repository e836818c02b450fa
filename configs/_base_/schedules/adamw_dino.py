# DINO's pre-training recipe for a batch of 8 x 64: AdamW, linear warm-up of 10 epochs from 0, half a cosine
# to 1e-6; weight decay from 0.04 to 0.4 along half a cosine, on everything with more than one dimension
# (class token and position table among it); the gradient of every parameter clipped by itself.
optim_wrapper = dict(
    type='mmssl.AmpOptimWrapper',
    dtype='bfloat16',
    constructor='mmssl.MergedOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=5e-4 * 512 / 256, betas=(0.9, 0.999), weight_decay=0.04, fused=True),
    paramwise_cfg=dict(flat_decay_mult=0.0),
    clip_grad=dict(type='each', max_norm=3.0),
)
param_scheduler = [
    dict(
        type='mmssl.WarmupCosineLR',
        warmup=10,
        end=100,
        eta_min=1e-6,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
    dict(type='mmssl.CosineWeightDecay', final=0.4, end=100, by_epoch=True, convert_to_iter_based=True),
]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=100)
auto_scale_lr = dict(base_batch_size=512)
