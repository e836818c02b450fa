# Improved Baselines with Momentum Contrastive Learning (MoCo v2), https://arxiv.org/abs/2003.04297:
# ResNet-50, 200 epochs.
#
#   tools/dist_train.sh configs/moco/mocov2_resnet50_8xb32-coslr-200e_in1k.py 8 --data DIR
#
# The same numbers on one GPU, whose batch norm is split into the eight groups:
#
#   python tools/train.py configs/moco/mocov2_resnet50_8xb32-coslr-200e_in1k.py --data DIR \
#       --cfg-options train_dataloader.batch_size=256 model.bn_groups=8
#
# DIR is any folder of images. Expected, ImageNet-1k: the official repository reports 67.5 (+-0.1) top-1 by
# linear probing. Not measured here.
default_scope = 'mmpretrain'
_base_ = [
    '../_base_/models/mocov2_resnet50.py',
    '../_base_/datasets/images_moco-v2_224.py',
    '../_base_/schedules/sgd_moco.py',
    '../_base_/runtime.py',
]
