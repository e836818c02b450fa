# MoBY's pre-training recipe: AdamW, learning rate 1e-3 at batch 512, linear warm-up of 5 epochs, half a
# cosine to 5e-6, every iteration. Weight decay 0.05 on weights with more than one dimension, gradients
# clipped at a norm of 5. (The released code has fp16, begins its warm-up at 5e-7 and counts its cosine from
# the first step: at the end of the warm-up a difference of 0.1 % in 300 epochs.)
optim_wrapper = dict(
    type='mmssl.AmpOptimWrapper',
    dtype='bfloat16',
    constructor='mmssl.MergedOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=1e-3 * 512 / 512, betas=(0.9, 0.999), weight_decay=0.05, fused=True),
    paramwise_cfg=dict(flat_decay_mult=0.0),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = dict(
    type='mmssl.WarmupCosineLR', warmup=5, end=300, eta_min=5e-6, by_epoch=True, convert_to_iter_based=True
)
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=300)
auto_scale_lr = dict(base_batch_size=512)
