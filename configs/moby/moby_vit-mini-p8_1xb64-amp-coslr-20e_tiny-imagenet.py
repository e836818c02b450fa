# MoBY (https://arxiv.org/abs/2105.04553) on small photographs and one CPU core: four layers of 96 channels on
# views of 48x48 in patches of 8, 20 epochs, about eleven minutes of CPU time for 6,000 images, k-NN and
# loader included. Blur and solarisation would leave little of a view this small.
#
#   python tools/train.py configs/moby/moby_vit-mini-p8_1xb64-amp-coslr-20e_tiny-imagenet.py --data DIR_OR_ZIP
#
# DIR_OR_ZIP holds train/<class>/* and val/<class>/*; k-NN is measured at the start, every 10 epochs and at
# the end.
# Expected: see docs/results/selfsup.md, measured here.
_base_ = './moby_deit-small-p16_8xb64-amp-coslr-300e_in1k.py'
data_root = 'data/tiny-imagenet'
model = dict(
    backbone=dict(
        arch=dict(_delete_=True, embed_dims=96, num_layers=4, num_heads=3, feedforward_channels=384),
        img_size=48,
        patch_size=8,
        drop_path_rate=0.05,
        out_type='featmap',  # averaged
        init_cfg=None,
    ),
    neck=dict(dims=(96, 512, 128)),
    head=dict(dims=(128, 512, 128)),
    queue_len=1024,
)
train_pipeline = [
    dict(
        type='mmssl.LoadViews',
        preset='moco-v3',
        scale=48,
        crop_ratio_range=(0.2, 1.0),
        blur_prob=0.0,
        solarize_prob=0.0,
    ),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=64,
    num_workers=1,
    dataset=dict(data_root=data_root, data_prefix='train', pipeline=train_pipeline),
)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = dict(warmup=1, end=20)
train_cfg = dict(max_epochs=20)
default_hooks = dict(logger=dict(interval=10))
custom_hooks = _base_.custom_hooks + [
    dict(type='mmssl.KNNHook', data=data_root, interval=10, at_start=True, batch_size=256, num_workers=1)
]
auto_scale_lr = dict(base_batch_size=64)
