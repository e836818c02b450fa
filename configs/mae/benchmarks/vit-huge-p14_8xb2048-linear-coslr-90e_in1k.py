# Linear probing of an MAE ViT-H/14 (https://arxiv.org/abs/2111.06377, table 8); see
# vit-base-p16_8xb2048-linear-coslr-90e_in1k.py.
#
#   tools/dist_train.sh configs/mae/benchmarks/vit-huge-p14_8xb2048-linear-coslr-90e_in1k.py 8 --data DIR \
#       --cfg-options model.backbone.init_cfg.checkpoint=FILE
#
# Expected, ImageNet-1k, 1600 epochs of pre-training: no figure at hand. Not measured here.
_base_ = './vit-base-p16_8xb2048-linear-coslr-90e_in1k.py'
model = dict(
    backbone=dict(arch='h', patch_size=14, frozen_stages=32),
    neck=dict(input_features=1280),
    head=dict(in_channels=1280),
)
