# Feature distillation (https://arxiv.org/abs/2205.14141) in place of MoCo v2 in the first step of
# docs/tutorial.md: a MobileNetV2 into the ResNet-18 of half the width, one crop of 112 pixels of each image,
# one CPU core.
#
#   python tools/train.py \
#       configs/distillation/distillation_resnet18-narrow-mobilenetv2_1xb64-amp-coslr-40e_pool.py --data DIR \
#       --cfg-options model.teacher.init_cfg.checkpoint=TEACHER
#
# TEACHER is a MobileNetV2 in mmpretrain's names, trained on ImageNet with its labels. DIR is any folder of
# images; that of the tutorial is made by tools/pool_images.py.
# Expected: no figure; not measured here yet.
_base_ = '../tutorial/pretrain_moco-v2_resnet18-narrow_1xb64-coslr-40e_pool.py'
model = dict(
    _delete_=True,
    type='mmssl.Distillation',
    backbone=dict(type='mmpretrain.ResNet', depth=18, stem_channels=32, base_channels=32, out_indices=(3,)),
    teacher=dict(
        type='mmpretrain.MobileNetV2',
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/mobilenetv2.pth', prefix='backbone.'),
    ),
)
train_pipeline = [
    dict(type='mmssl.LoadRandomResizedCrop', scale=112, crop_ratio_range=(0.2, 1.0), interpolation='bicubic'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
