# Self-Supervised Learning from Images with a Joint-Embedding Predictive Architecture,
# https://arxiv.org/abs/2301.08243: ViT-H/14, 300 epochs, bfloat16.
#
#   tools/dist_train.sh configs/ijepa/ijepa_vit-huge-p14_16xb128-amp-coslr-300e_in1k.py 16 --data DIR
#
# DIR is any folder of images. There are no views: one crop of 30 to 100 % of the area, no colour change.
# Expected, ImageNet-1k: the paper reports 79.3 top-1 by linear probing. Not measured here.
default_scope = 'mmpretrain'
_base_ = ['../_base_/datasets/images_mae_224.py', '../_base_/schedules/adamw_dino.py', '../_base_/runtime.py']
model = dict(
    type='mmssl.IJEPA',
    backbone=dict(type='mmssl.IJEPAViT', arch='h', img_size=224, patch_size=14),
    neck=dict(type='mmssl.IJEPAPredictor', embed_dims=384, num_layers=12, num_heads=12),
    momentum=0.996,
)
train_pipeline = [
    dict(type='mmssl.LoadRandomResizedCrop', scale=224, crop_ratio_range=(0.3, 1.0), interpolation='bicubic'),
    dict(type='PackInputs'),
]
train_dataloader = dict(batch_size=128, dataset=dict(pipeline=train_pipeline))
optim_wrapper = dict(optimizer=dict(lr=1e-3), clip_grad=None)
param_scheduler = [
    dict(
        type='mmssl.WarmupCosineLR',
        warmup=15,
        end=300,
        eta_min=1e-6,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
    dict(type='mmssl.CosineWeightDecay', final=0.4, end=300, by_epoch=True, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=300)
auto_scale_lr = dict(base_batch_size=2048)
