# Ten iterations of pre-training on the generated demo data, in one process on the CPU. A smoke config adds
# its model, the views, and an optimizer.
default_scope = 'mmpretrain'
_base_ = ['./datasets/images.py', './runtime.py']
train_dataloader = dict(
    batch_size=16,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(data_root='data/demo/imagenet'),
)
param_scheduler = dict(type='mmssl.WarmupCosineLR', warmup=2, end=10, by_epoch=False)
train_cfg = dict(type='IterBasedTrainLoop', max_iters=10)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(by_epoch=False, interval=5))
log_processor = dict(by_epoch=False)
auto_scale_lr = dict(base_batch_size=16)
