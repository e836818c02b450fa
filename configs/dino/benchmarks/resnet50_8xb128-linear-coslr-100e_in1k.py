# Linear probing of a DINO ResNet-50 (https://arxiv.org/abs/2104.14294): a linear layer on the averaged
# features of the teacher, whose batch norms keep their statistics; see
# vit-small-p16_8xb128-linear-coslr-100e_in1k.py.
#
#   tools/dist_train.sh configs/dino/benchmarks/resnet50_8xb128-linear-coslr-100e_in1k.py 8 --data DIR \
#       --cfg-options model.backbone.init_cfg.checkpoint=FILE
#
# Expected, ImageNet-1k: the official repository reports 75.3 top-1 for its released ResNet-50. Not measured
# here.
_base_ = './vit-small-p16_8xb128-linear-coslr-100e_in1k.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpretrain.ResNet',
        depth=50,
        frozen_stages=4,
        norm_eval=True,
        init_cfg=dict(type='Pretrained', checkpoint='', prefix='teacher.module.0.'),
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(in_channels=2048),
)
