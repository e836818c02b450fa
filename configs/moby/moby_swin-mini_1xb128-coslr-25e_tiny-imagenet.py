# MoBY (https://arxiv.org/abs/2105.04553) on 64x64 photographs and one CPU core: a Swin of two stages on patches of 8, 25 epochs, about ten
# minutes for 6,000 images.
#
#   python tools/train.py configs/moby/moby_swin-mini_1xb128-coslr-25e_tiny-imagenet.py --data DIR_OR_ZIP
#
# DIR_OR_ZIP holds train/<class>/* and val/<class>/*; k-NN is measured at the start and at the end.
# Expected: see docs/results/selfsup.md, measured here.
_base_ = './moby_swin-tiny_8xb64-amp-coslr-300e_in1k.py'
data_root = 'data/tiny-imagenet'
model = dict(
    backbone=dict(
        arch=dict(_delete_=True, embed_dims=64, depths=[2, 2], num_heads=[2, 4]),
        img_size=64,
        patch_size=8,
        window_size=4,
        out_indices=(1, ),
        drop_path_rate=0.1),
    neck=dict(dims=(128, 512, 128)),
    head=dict(dims=(128, 512, 128)),
    queue_len=2048)
train_pipeline = [
    dict(type='mmssl.LoadViews', preset='moco-v3', scale=64, crop_ratio_range=(0.2, 1.0)),
    dict(type='PackInputs'),
]
train_dataloader = dict(batch_size=128, num_workers=1, dataset=dict(data_root=data_root, data_prefix='train', pipeline=train_pipeline))
optim_wrapper = dict(optimizer=dict(lr=2e-3))
param_scheduler = dict(warmup=2, end=25)
train_cfg = dict(max_epochs=25)
default_hooks = dict(logger=dict(interval=10))
custom_hooks = _base_.custom_hooks + [
    dict(type='mmssl.KNNHook', data=data_root, interval=25, at_start=True, image_size=64, batch_size=256, num_workers=1)
]
auto_scale_lr = dict(base_batch_size=128)
