# MoCo v3 (https://arxiv.org/abs/2104.02057): ResNet-50, 300 epochs, half the learning rate.
#
#   tools/dist_train.sh configs/mocov3/mocov3_resnet50_8xb512-amp-coslr-300e_in1k.py 8 --data DIR
#
# Expected, ImageNet-1k: the official repository and mmpretrain report 72.8 top-1 by linear probing. Not
# measured here.
_base_ = './mocov3_resnet50_8xb512-amp-coslr-100e_in1k.py'
optim_wrapper = dict(optimizer=dict(lr=0.3 * 4096 / 256))
param_scheduler = dict(end=300)
train_cfg = dict(max_epochs=300)
