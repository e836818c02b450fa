# BEiT (https://arxiv.org/abs/2106.08254) on 64x64 photographs and a CPU: four layers of 128 channels, 512
# k-means tokens, 18 epochs, under ten minutes of one core for 6,000 images.
#
#   mmssl tokenizer fit \
#       --data DIR_OR_ZIP --out data/tokenizer_tiny-imagenet.pth --tokens 512 --patch-size 8 --image-size 64 \
#       --crop 0.3 1 --images 6000
#   python tools/train.py configs/beit/beit_vit-mini-p8_1xb64-kmeans-amp-coslr-18e_tiny-imagenet.py \
#       --data DIR_OR_ZIP
#
# DIR_OR_ZIP holds train/<class>/* and val/<class>/*. So few layers learn faster without layer scale, and in
# so few epochs without jitter.
# Expected: see docs/results/selfsup.md, measured here.
_base_ = './beit_vit-base-p16_8xb256-kmeans-amp-coslr-300e_in1k.py'
model = dict(
    backbone=dict(
        arch=dict(_delete_=True, embed_dims=128, num_layers=4, num_heads=4, feedforward_channels=512),
        img_size=64,
        patch_size=8,
        drop_path_rate=0.0,
        layer_scale_init_value=0,
    ),
    tokenizer=dict(checkpoint='data/tokenizer_tiny-imagenet.pth', num_tokens=512, patch_size=8),
    num_masked=26,
    min_masked=4,
)
train_pipeline = [
    dict(type='mmssl.LoadBEiTViews', scale=64, second_scale=None, crop_ratio_range=(0.3, 1.0), jitter=0),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=64, num_workers=1, dataset=dict(data_root='data/tiny-imagenet', pipeline=train_pipeline)
)
optim_wrapper = dict(optimizer=dict(lr=2e-3))
param_scheduler = dict(warmup=1, end=18)
train_cfg = dict(max_epochs=18)
default_hooks = dict(logger=dict(interval=30), checkpoint=dict(max_keep_ckpts=1))
auto_scale_lr = dict(base_batch_size=64)
