# Linear probing of an MAE ViT-L/16 (https://arxiv.org/abs/2111.06377, table 8); see
# vit-base-p16_8xb2048-linear-coslr-90e_in1k.py.
#
#   tools/dist_train.sh configs/mae/benchmarks/vit-large-p16_8xb2048-linear-coslr-90e_in1k.py 8 --data DIR \
#       --cfg-options model.backbone.init_cfg.checkpoint=FILE
#
# Expected, ImageNet-1k, 1600 epochs of pre-training: 75.8 top-1 in the paper. Not measured here.
_base_ = './vit-base-p16_8xb2048-linear-coslr-90e_in1k.py'
model = dict(
    backbone=dict(arch='l', patch_size=16, frozen_stages=24),
    neck=dict(input_features=1024),
    head=dict(in_channels=1024),
)
