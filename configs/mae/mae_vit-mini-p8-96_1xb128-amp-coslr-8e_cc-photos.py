# MAE (https://arxiv.org/abs/2111.06377): mae-mini, the small one in the package, trained on crops of
# photographs that may be redistributed. Six layers of 128 channels, 96 x 96 pixels; pixels are predicted as
# they are, so that pictures show what the model knows of colours, too.
#
#   python tools/weights/cc_photos.py --coco DIR --bccd DIR --out data/cc-photos
#   python tools/train.py configs/mae/mae_vit-mini-p8-96_1xb128-amp-coslr-8e_cc-photos.py
#
# Expected: see docs/weights.md, measured here.
_base_ = './mae_vit-base-p16_8xb512-amp-coslr-300e_in1k.py'
model = dict(
    backbone=dict(
        arch=dict(_delete_=True, embed_dims=128, num_layers=6, num_heads=4, feedforward_channels=512),
        img_size=96,
        patch_size=8,
        mask_ratio=0.75,
    ),
    neck=dict(
        num_patches=144,
        patch_size=8,
        embed_dim=128,
        decoder_embed_dim=96,
        decoder_depth=2,
        decoder_num_heads=4,
    ),
    head=dict(patch_size=8, norm_pix=False),
)
train_pipeline = [
    dict(type='mmssl.LoadRandomResizedCrop', scale=96, crop_ratio_range=(0.4, 1.0), interpolation='bicubic'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=128,
    num_workers=1,
    dataset=dict(data_root='data/cc-photos', data_prefix='crops/train', pipeline=train_pipeline),
)
optim_wrapper = dict(optimizer=dict(lr=1.5e-3))
param_scheduler = dict(warmup=1, end=8)
train_cfg = dict(max_epochs=8)
default_hooks = dict(logger=dict(interval=10))
auto_scale_lr = dict(base_batch_size=128)
