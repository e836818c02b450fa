# Feature distillation (https://arxiv.org/abs/2205.14141) on 64x64 photographs and one CPU core: MobileNetV2
# into the ResNet-18 of configs/moco/mocov2_resnet18_1xb64-amp-coslr-15e_tiny-imagenet.py, with its images and
# schedule.
#
#   python tools/train.py \
#       configs/distillation/distillation_resnet18-mobilenetv2_1xb64-amp-coslr-15e_tiny-imagenet.py \
#       --data DIR_OR_ZIP --cfg-options model.teacher.init_cfg.checkpoint=TEACHER
#
# TEACHER is a MobileNetV2 in mmpretrain's names, trained on ImageNet with its labels. DIR_OR_ZIP holds
# train/<class>/* and val/<class>/*; k-NN is measured at the start and at the end.
# Expected: no figure yet.
_base_ = '../moco/mocov2_resnet18_1xb64-amp-coslr-15e_tiny-imagenet.py'
model = dict(
    _delete_=True,
    type='mmssl.Distillation',
    backbone=dict(
        type='mmpretrain.ResNet',
        depth=18,
        stem_channels=32,
        base_channels=32,
        num_stages=3,
        strides=(1, 2, 2),
        dilations=(1, 1, 1),
        out_indices=(2,),
    ),
    teacher=dict(
        type='mmpretrain.MobileNetV2',
        out_indices=(5,),
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/mobilenetv2.pth', prefix='backbone.'),
    ),
)
train_pipeline = [
    dict(type='mmssl.LoadRandomResizedCrop', scale=64, crop_ratio_range=(0.2, 1.0), interpolation='bicubic'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
