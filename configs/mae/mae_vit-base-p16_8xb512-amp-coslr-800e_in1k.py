# MAE (https://arxiv.org/abs/2111.06377): ViT-B/16, 800 epochs.
#
#   tools/dist_train.sh configs/mae/mae_vit-base-p16_8xb512-amp-coslr-800e_in1k.py 8 --data DIR
#
# Expected, ImageNet-1k: mmpretrain reports 83.3 top-1 after fine-tuning, 65.1 by linear probing. Not measured
# here.
_base_ = './mae_vit-base-p16_8xb512-amp-coslr-300e_in1k.py'
param_scheduler = dict(end=800)
train_cfg = dict(max_epochs=800)
