# MoCo v2 (https://arxiv.org/abs/2003.04297): ResNet-50, 800 epochs, the paper's best setting.
#
#   tools/dist_train.sh configs/moco/mocov2_resnet50_8xb32-coslr-800e_in1k.py 8 --data DIR
#
# Expected, ImageNet-1k: the official repository reports 71.1 top-1 by linear probing. Not measured here.
_base_ = './mocov2_resnet50_8xb32-coslr-200e_in1k.py'
param_scheduler = dict(end=800)
train_cfg = dict(max_epochs=800)
