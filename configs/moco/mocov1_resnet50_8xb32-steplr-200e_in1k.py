# Momentum Contrast for Unsupervised Visual Representation Learning (MoCo v1),
# https://arxiv.org/abs/1911.05722: ResNet-50, 200 epochs, with the paper's own schedule, the learning rate
# divided by 10 at epochs 120 and 160.
#
#   tools/dist_train.sh configs/moco/mocov1_resnet50_8xb32-steplr-200e_in1k.py 8 --data DIR
#
# The same numbers on one GPU, whose batch norm is split into the eight groups:
#
#   python tools/train.py configs/moco/mocov1_resnet50_8xb32-steplr-200e_in1k.py --data DIR \
#       --cfg-options train_dataloader.batch_size=256 model.bn_groups=8
#
# DIR is any folder of images. Expected, ImageNet-1k: the paper reports 60.6 top-1 by linear probing, the
# official repository 60.8 (+-0.2). Not measured here.
default_scope = 'mmpretrain'
_base_ = [
    '../_base_/models/mocov2_resnet50.py',
    '../_base_/datasets/images_moco-v1_224.py',
    '../_base_/schedules/sgd_moco.py',
    '../_base_/runtime.py',
]
model = dict(
    neck=dict(_delete_=True, type='mmssl.MoCoV1Neck', in_channels=2048, out_channels=128),
    temperature=0.07,
)
param_scheduler = dict(
    _delete_=True, type='MultiStepLR', milestones=[120, 160], gamma=0.1, by_epoch=True, end=200
)
