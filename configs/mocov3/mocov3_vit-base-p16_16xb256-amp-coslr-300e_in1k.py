# MoCo v3 (https://arxiv.org/abs/2104.02057): ViT-B/16, 300 epochs, batch 16 x 256.
#
#   GPUS=16 tools/slurm_train.sh PARTITION JOB \
#       configs/mocov3/mocov3_vit-base-p16_16xb256-amp-coslr-300e_in1k.py --data DIR
#
# Expected, ImageNet-1k: the official repository reports 76.7 top-1 by linear probing and 83.2 after
# fine-tuning, mmpretrain 76.9 and 83.0. Not measured here.
_base_ = './mocov3_vit-small-p16_16xb256-amp-coslr-300e_in1k.py'
model = dict(backbone=dict(arch='base'), neck=dict(dims=(768, 4096, 4096, 256)))
