# MoCo v3 (https://arxiv.org/abs/2104.02057): ResNet-50, 800 epochs, with the settings of 1000.
#
#   tools/dist_train.sh configs/mocov3/mocov3_resnet50_8xb512-amp-coslr-800e_in1k.py 8 --data DIR
#
# Expected, ImageNet-1k: mmpretrain reports 74.4 top-1 by linear probing. Not measured here.
_base_ = './mocov3_resnet50_8xb512-amp-coslr-1000e_in1k.py'
param_scheduler = dict(end=800)
train_cfg = dict(max_epochs=800)
