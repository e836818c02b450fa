# Unsupervised Visual Representation Learning by Context Prediction, https://arxiv.org/abs/1505.05192:
# ResNet-50, 70 epochs.
#
#   tools/dist_train.sh configs/pretext/relative-loc_resnet50_8xb64-steplr-70e_in1k.py 8 --data DIR
#   python tools/train.py configs/pretext/relative-loc_resnet50_8xb64-steplr-70e_in1k.py \
#       --data DIR --auto-scale-lr
#
# DIR is any folder of images. Patches, gaps, jitter and dropped colours are the paper's, backbone and
# schedule mmselfsup's. Expected, ImageNet-1k: no figure for this very recipe; mmselfsup reports 39.65 top-1
# by linear probing of averaged features with patches of 64 pixels, two thirds of the images grey. Not
# measured here.
default_scope = 'mmpretrain'
_base_ = [
    '../_base_/datasets/images_relative-loc_398.py',
    '../_base_/schedules/sgd_pretext.py',
    '../_base_/runtime.py',
]
model = dict(
    type='mmssl.RelativeLocation',
    backbone=dict(type='mmpretrain.ResNet', depth=50, zero_init_residual=False),
    head=dict(type='mmssl.PretextHead', in_channels=2048, hid_channels=4096),
    patch_size=96,
    gap=48,
    jitter=7,
    drop_prob=1.0,
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(head=dict(decay_mult=5.0))))
auto_scale_lr = dict(base_batch_size=512)
