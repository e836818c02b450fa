# MoBY (https://arxiv.org/abs/2105.04553): DeiT-S/16, 100 epochs.
#
#   tools/dist_train.sh configs/moby/moby_deit-small-p16_8xb64-amp-coslr-100e_in1k.py 8 --data DIR
#
# Expected, ImageNet-1k: no figure at hand. Not measured here.
_base_ = './moby_deit-small-p16_8xb64-amp-coslr-300e_in1k.py'
param_scheduler = dict(end=100)
train_cfg = dict(max_epochs=100)
