# Linear probing of a MoCo v3 ViT-B/16 (https://arxiv.org/abs/2104.02057); see
# vit-small-p16_8xb128-linear-coslr-90e_in1k.py.
#
#   tools/dist_train.sh configs/mocov3/benchmarks/vit-base-p16_8xb128-linear-coslr-90e_in1k.py 8 --data DIR \
#       --cfg-options model.backbone.init_cfg.checkpoint=FILE
#
# Expected, ImageNet-1k: the official repository reports 76.7 top-1 after 300 epochs of pre-training. Not
# measured here.
_base_ = './vit-small-p16_8xb128-linear-coslr-90e_in1k.py'
model = dict(backbone=dict(arch='base'), head=dict(in_channels=768))
