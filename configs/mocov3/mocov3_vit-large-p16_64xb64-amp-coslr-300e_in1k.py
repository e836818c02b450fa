# MoCo v3 (https://arxiv.org/abs/2104.02057): ViT-L/16, 300 epochs, batch 64 x 64.
#
#   GPUS=64 tools/slurm_train.sh PARTITION JOB \
#       configs/mocov3/mocov3_vit-large-p16_64xb64-amp-coslr-300e_in1k.py --data DIR
#
# Expected, ImageNet-1k: the paper reports 77.6 top-1 by linear probing and 84.1 after fine-tuning, mmpretrain
# 83.7 after fine-tuning. Not measured here.
_base_ = './mocov3_vit-small-p16_16xb256-amp-coslr-300e_in1k.py'
model = dict(backbone=dict(arch='large'), neck=dict(dims=(1024, 4096, 4096, 256)))
train_dataloader = dict(batch_size=64)
