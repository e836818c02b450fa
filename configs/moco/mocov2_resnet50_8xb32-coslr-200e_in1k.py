# Improved Baselines with Momentum Contrastive Learning (MoCo v2), https://arxiv.org/abs/2003.04297: ResNet-50, 200 epochs.
#
#   tools/dist_train.sh configs/moco/mocov2_resnet50_8xb32-coslr-200e_in1k.py 8 --data DIR        the recipe, batch 8 x 32
#   python tools/train.py configs/moco/mocov2_resnet50_8xb32-coslr-200e_in1k.py --data DIR \
#       --cfg-options train_dataloader.batch_size=256 model.bn_groups=8                            the same on one GPU
#
# DIR is any folder of images. Expected, ImageNet-1k: the official repository reports 67.5 (+-0.1) top-1 by linear probing.
# Not measured here.
default_scope = 'mmpretrain'
_base_ = [
    '../_base_/datasets/images_moco-v2_224.py',
    '../_base_/schedules/sgd_moco.py',
    '../_base_/runtime.py',
]
model = dict(
    type='mmssl.MoCo',
    backbone=dict(type='mmpretrain.ResNet', depth=50, zero_init_residual=False),
    neck=dict(type='mmssl.MoCoV2Neck', in_channels=2048, hid_channels=2048, out_channels=128),
    queue_len=65536,
    momentum=0.999,
    temperature=0.2,
)
