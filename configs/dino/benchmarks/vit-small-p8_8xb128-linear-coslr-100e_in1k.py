# Linear probing of a DINO ViT-S/8 (https://arxiv.org/abs/2104.14294); see
# vit-small-p16_8xb128-linear-coslr-100e_in1k.py.
#
#   tools/dist_train.sh configs/dino/benchmarks/vit-small-p8_8xb128-linear-coslr-100e_in1k.py 8 --data DIR \
#       --cfg-options model.backbone.init_cfg.checkpoint=FILE
#
# Expected, ImageNet-1k: the official repository reports 79.7 top-1 for its released ViT-S/8. Not measured
# here.
_base_ = './vit-small-p16_8xb128-linear-coslr-100e_in1k.py'
model = dict(backbone=dict(patch_size=8))
