# BEiT's pre-training recipe: AdamW, warm-up of 10 epochs, half a cosine to 1e-5, every iteration; gradients
# clipped to a norm of 3. Weights with more than one dimension are decayed, the mask token and the bias table
# among them, the class token is not.
optim_wrapper = dict(
    type='mmssl.AmpOptimWrapper',
    dtype='bfloat16',
    constructor='mmssl.MergedOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=1.5e-3, betas=(0.9, 0.999), weight_decay=0.05, fused=True),
    clip_grad=dict(max_norm=3.0),
    paramwise_cfg=dict(flat_decay_mult=0.0, custom_keys=dict(cls_token=dict(decay_mult=0.0))),
)
param_scheduler = dict(
    type='mmssl.WarmupCosineLR', warmup=10, end=300, eta_min=1e-5, by_epoch=True, convert_to_iter_based=True
)
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=300)
auto_scale_lr = dict(base_batch_size=2048)
