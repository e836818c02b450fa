# BEiT (https://arxiv.org/abs/2106.08254) on 64x64 photographs and a CPU.
#
#   mmssl tokenizer fit --data DIR_OR_ZIP --out data/tokenizer_tiny-imagenet.pth --tokens 512 --patch-size 8 --image-size 64 --crop 0.3 1
#   python tools/train.py configs/beit/beit_vit-mini_1xb128-kmeans-coslr-20e_tiny-imagenet.py --data DIR_OR_ZIP
#
# DIR_OR_ZIP holds train/<class>/* and val/<class>/*.
# Expected: see docs/results/selfsup.md, measured here.
_base_ = './beit_vit-base-p16_8xb256-kmeans-amp-coslr-300e_in1k.py'
model = dict(
    backbone=dict(
        arch=dict(_delete_=True, embed_dims=128, num_layers=4, num_heads=4, feedforward_channels=512),
        img_size=64,
        patch_size=8,
        drop_path_rate=0.),
    tokenizer=dict(checkpoint='data/tokenizer_tiny-imagenet.pth', num_tokens=512, patch_size=8),
    num_masked=26,
    min_masked=4)
train_pipeline = [
    dict(type='mmssl.LoadBEiTViews', scale=64, second_scale=None, crop_ratio_range=(0.3, 1.0), jitter=0.4),
    dict(type='PackInputs'),
]
train_dataloader = dict(batch_size=128, num_workers=1, dataset=dict(data_root='data/tiny-imagenet', pipeline=train_pipeline))
optim_wrapper = dict(optimizer=dict(lr=2e-3))
param_scheduler = dict(warmup=2, end=20)
train_cfg = dict(max_epochs=20)
default_hooks = dict(logger=dict(interval=10))
auto_scale_lr = dict(base_batch_size=128)
