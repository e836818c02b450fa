# MoCo v3 (https://arxiv.org/abs/2104.02057): ResNet-50, 1000 epochs.
#
#   tools/dist_train.sh configs/mocov3/mocov3_resnet50_8xb512-amp-coslr-1000e_in1k.py 8 --data DIR
#
# Expected, ImageNet-1k: the official repository reports 74.6 top-1 by linear probing. Not measured here.
_base_ = './mocov3_resnet50_8xb512-amp-coslr-100e_in1k.py'
model = dict(momentum=0.996)
optim_wrapper = dict(optimizer=dict(lr=0.3 * 4096 / 256, weight_decay=1.5e-6))
param_scheduler = dict(end=1000)
train_cfg = dict(max_epochs=1000)
