# SwAV (https://arxiv.org/abs/2006.09882) for small batches: ResNet-50, 400 epochs, batch 8 x 32, with the
# queue.
#
#   tools/dist_train.sh configs/swav/swav_resnet50_8xb32-mcrop-coslr-400e_in1k-224px-96px.py 8 --data DIR
#
# Expected, ImageNet-1k: the official repository reports 74.3 top-1 by linear probing. Not measured here.
_base_ = './swav_resnet50_8xb32-mcrop-coslr-200e_in1k-224px-96px.py'
param_scheduler = dict(end=400)
train_cfg = dict(max_epochs=400)
