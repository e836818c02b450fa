# MAE (https://arxiv.org/abs/2111.06377): ViT-L/16, 800 epochs.
#
#   tools/dist_train.sh configs/mae/mae_vit-large-p16_8xb512-amp-coslr-800e_in1k.py 8 --data DIR
#
# Expected, ImageNet-1k: the paper gives no figure for 800 epochs. Not measured here.
_base_ = './mae_vit-large-p16_8xb512-amp-coslr-300e_in1k.py'
param_scheduler = dict(end=800)
train_cfg = dict(max_epochs=800)
