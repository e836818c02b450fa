# MAE (https://arxiv.org/abs/2111.06377): ViT-L/16, 400 epochs.
#
#   tools/dist_train.sh configs/mae/mae_vit-large-p16_8xb512-amp-coslr-400e_in1k.py 8 --data DIR
#
# Expected, ImageNet-1k: the paper gives no figure for 400 epochs. Not measured here.
_base_ = './mae_vit-large-p16_8xb512-amp-coslr-300e_in1k.py'
param_scheduler = dict(end=400)
train_cfg = dict(max_epochs=400)
