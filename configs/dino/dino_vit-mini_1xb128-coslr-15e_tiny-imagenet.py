# DINO (https://arxiv.org/abs/2104.14294) on 64x64 photographs and a CPU: four layers of 192 channels, 15 epochs of 6,000 images, two crops
# of 64 pixels and four of 32.
#
#   python tools/train.py configs/dino/dino_vit-mini_1xb128-coslr-15e_tiny-imagenet.py --data DIR_OR_ZIP
#
# DIR_OR_ZIP holds train/<class>/* and val/<class>/*; k-NN is measured at the start, every 5 epochs and at the end.
# Expected: see docs/results/selfsup.md, measured here.
_base_ = './dino_vit-s16_8xb64-amp-coslr-100e_in1k.py'
data_root = 'data/tiny-imagenet'
model = dict(
    backbone=dict(
        arch=dict(_delete_=True, embed_dims=192, num_layers=4, num_heads=6, feedforward_channels=768),
        img_size=64,
        patch_size=8,
        drop_path_rate=0.0),
    head=dict(in_dim=192, out_dim=2048, hidden_dim=512, bottleneck_dim=128),
    num_crops=6,
    momentum=0.99)
train_pipeline = [
    dict(type='mmssl.LoadViews', preset='dino', scale=64, local_scale=32, num_local=4),
    dict(type='PackInputs'),
]
train_dataloader = dict(batch_size=128, num_workers=1, dataset=dict(data_root=data_root, data_prefix='train', pipeline=train_pipeline))
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [
    dict(type='mmssl.WarmupCosineLR', warmup=2, end=15, eta_min=1e-6, by_epoch=True, convert_to_iter_based=True),
    dict(type='mmssl.CosineWeightDecay', final=0.4, end=15, by_epoch=True, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=15)
default_hooks = dict(logger=dict(interval=10))
custom_hooks = _base_.custom_hooks + [
    dict(type='mmssl.KNNHook', data=data_root, interval=5, at_start=True, image_size=64, batch_size=256, num_workers=1)
]
auto_scale_lr = dict(base_batch_size=128)
