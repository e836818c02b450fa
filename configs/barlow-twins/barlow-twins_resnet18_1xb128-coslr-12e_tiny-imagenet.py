# Barlow Twins (https://arxiv.org/abs/2103.03230) on 64x64 photographs and one CPU core: the first three
# stages of a ResNet-18 of half the width, 12 epochs of 6,000 images. Fitted to 552 steps: AdamW, weaker
# colour jitter, neither grey, blur nor solarisation.
#
#   python tools/train.py configs/barlow-twins/barlow-twins_resnet18_1xb128-coslr-12e_tiny-imagenet.py \
#       --data DIR_OR_ZIP
#
# DIR_OR_ZIP holds train/<class>/* and val/<class>/*; k-NN is measured at the start and at the end.
# Expected: no figure; not measured here yet.
_base_ = '../_base_/tiny-imagenet_resnet18.py'
model = dict(
    type='mmssl.BarlowTwins',
    neck=dict(type='mmssl.MLP', dims=(128, 512, 512, 512)),
    off_diagonal_weight=0.0051,
)
