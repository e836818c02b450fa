# MAE (https://arxiv.org/abs/2111.06377) small enough for two CPU cores: 48x48 pieces of photographs, 800
# iterations, under three minutes.
#
#   python tools/demo.py                 what `make demo` runs: k-NN before, training, k-NN after, a picture
#   python tools/train.py configs/mae/mae_vit-micro-p8_1xb128-coslr-800i_demo.py
#
# Expected: see docs/results/mae.md, measured here.
_base_ = './mae_vit-base-p16_8xb512-amp-coslr-300e_in1k.py'
model = dict(
    backbone=dict(
        arch=dict(_delete_=True, embed_dims=128, num_layers=4, num_heads=4, feedforward_channels=512),
        img_size=48,
        patch_size=8,
        mask_ratio=0.75,
    ),
    neck=dict(
        num_patches=36,
        patch_size=8,
        embed_dim=128,
        decoder_embed_dim=64,
        decoder_depth=1,
        decoder_num_heads=4,
    ),
    head=dict(patch_size=8),
)
train_pipeline = [
    dict(type='mmssl.LoadRandomResizedCrop', scale=48, crop_ratio_range=(0.5, 1.0), interpolation='bicubic'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=128,
    num_workers=1,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(data_root='data/demo/crops', data_prefix='train', pipeline=train_pipeline),
)
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    constructor='mmssl.MergedOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=2e-3, betas=(0.9, 0.95), weight_decay=0.05, fused=True),
    paramwise_cfg=dict(flat_decay_mult=0.0),
)
param_scheduler = dict(_delete_=True, type='mmssl.WarmupCosineLR', warmup=40, end=800, by_epoch=False)
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=800)
default_hooks = dict(
    checkpoint=dict(by_epoch=False, interval=400, max_keep_ckpts=1), logger=dict(interval=100)
)
log_processor = dict(by_epoch=False)
auto_scale_lr = dict(base_batch_size=128)
