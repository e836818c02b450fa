# SwAV's recipe for batches of 4096: LARC over SGD, weight decay 1e-6 on every tensor, ten epochs of warm-up
# from 0.3 to 4.8, half a cosine to 0.0048, every iteration; batch norm over all processes.
optim_wrapper = dict(
    type='mmssl.AmpOptimWrapper',
    dtype='bfloat16',
    optimizer=dict(
        type='mmssl.LARC', lr=4.8, momentum=0.9, weight_decay=1e-6, trust_coefficient=0.001, clip=False
    ),
)
param_scheduler = dict(
    type='mmssl.WarmupCosineLR',
    warmup=10,
    end=800,
    start_factor=0.3 / 4.8,
    eta_min=0.0048,
    by_epoch=True,
    convert_to_iter_based=True,
)
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=800)
auto_scale_lr = dict(base_batch_size=4096)
sync_bn = 'torch'
