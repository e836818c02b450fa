# DINO (https://arxiv.org/abs/2104.14294) on 64x64 photographs and a CPU: four layers of 96 channels, 12
# epochs of 6,000 images, two crops of 48 pixels and four of 24. Adapted to 1,100 steps: Xavier
# initialisation, a teacher with less momentum, batch norm in the head, neither blur nor solarisation.
#
#   python tools/train.py configs/dino/dino_vit-mini-p8_1xb64-amp-coslr-12e_tiny-imagenet.py --data DIR_OR_ZIP
#
# DIR_OR_ZIP holds train/<class>/* and val/<class>/*; k-NN is measured at the start, in the middle and at the
# end.
# Expected: see docs/results/selfsup.md, measured here.
_base_ = './dino_vit-small-p16_8xb64-amp-coslr-100e_in1k.py'
data_root = 'data/tiny-imagenet'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmssl.ViT',
        arch=dict(embed_dims=96, num_layers=4, num_heads=4, feedforward_channels=384),
        img_size=48,
        patch_size=8,
        out_type='cls_token',
    ),
    head=dict(in_dim=96, out_dim=1024, hidden_dim=512, bottleneck_dim=128, use_bn=True),
    num_crops=6,
    teacher_temp=0.04,
    warmup_teacher_temp_epochs=0,
    freeze_last_layer=0,
    momentum=0.99,
)
train_pipeline = [
    dict(
        type='mmssl.LoadViews',
        preset='dino',
        scale=48,
        local_scale=24,
        num_local=4,
        local_crop_ratio_range=(0.15, 0.5),
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
param_scheduler = [
    dict(
        type='mmssl.WarmupCosineLR', warmup=1, end=12, eta_min=1e-6, by_epoch=True, convert_to_iter_based=True
    ),
    dict(type='mmssl.CosineWeightDecay', final=0.4, end=12, by_epoch=True, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=12)
default_hooks = dict(logger=dict(interval=10))
custom_hooks = _base_.custom_hooks + [
    dict(
        type='mmssl.KNNHook',
        data=data_root,
        interval=6,
        at_start=True,
        image_size=48,
        batch_size=256,
        num_workers=1,
    )
]
auto_scale_lr = dict(base_batch_size=64)
