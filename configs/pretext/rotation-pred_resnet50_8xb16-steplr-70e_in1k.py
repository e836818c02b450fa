# Unsupervised Representation Learning by Predicting Image Rotations, https://arxiv.org/abs/1803.07728:
# ResNet-50, 70 epochs.
#
#   tools/dist_train.sh configs/pretext/rotation-pred_resnet50_8xb16-steplr-70e_in1k.py 8 --data DIR
#   python tools/train.py configs/pretext/rotation-pred_resnet50_8xb16-steplr-70e_in1k.py \
#       --data DIR --auto-scale-lr
#
# DIR is any folder of images; 16 images are 64 turned ones. Expected, ImageNet-1k: mmselfsup reports 44.35
# top-1 by linear probing of averaged features for this recipe; the paper has AlexNet only, 38.7 on its best
# layer. Not measured here.
default_scope = 'mmpretrain'
_base_ = [
    '../_base_/datasets/images_rotation_224.py',
    '../_base_/schedules/sgd_pretext.py',
    '../_base_/runtime.py',
]
model = dict(
    type='mmssl.RotationPrediction',
    backbone=dict(type='mmpretrain.ResNet', depth=50, zero_init_residual=False),
    head=dict(type='mmssl.PretextHead', in_channels=2048),
)
sync_bn = 'torch'
auto_scale_lr = dict(base_batch_size=128)
