# Partial fine-tuning of an MAE ViT-B/16 (https://arxiv.org/abs/2111.06377, figure 9): the last 4 blocks of
# the backbone and the classifier learn, the others stay.
#
#   tools/dist_train.sh configs/mae/benchmarks/vit-base-p16-partial4_8xb128-coslr-100e_in1k.py 8 --data DIR \
#       --cfg-options model.backbone.init_cfg.checkpoint=FILE
#
# FILE is a checkpoint of the pre-training, DIR holds train/<class>/* and val/<class>/*. Another number k of
# blocks: model.backbone.frozen_stages=12-k.
# Expected: no figure in the paper for ViT-B, figure 9 is of ViT-L.
_base_ = './vit-base-p16_8xb128-coslr-100e_in1k.py'
model = dict(backbone=dict(frozen_stages=8))
