# BYOL (https://arxiv.org/abs/2006.07733) on 64x64 photographs and one CPU core: the first three stages of a
# ResNet-18 of half the width, 12 epochs, six minutes of CPU for 6,000 images. Fitted to 552 steps: AdamW,
# momentum from 0.97, weaker colour jitter, neither grey, blur nor solarisation.
#
#   python tools/train.py configs/byol/byol_resnet18_1xb128-coslr-12e_tiny-imagenet.py --data DIR_OR_ZIP
#
# DIR_OR_ZIP holds train/<class>/* and val/<class>/*; k-NN is measured at the start and at the end.
# Expected: see docs/results/selfsup.md, measured here.
_base_ = '../_base_/tiny-imagenet_resnet18.py'
model = dict(
    type='mmssl.BYOL',
    neck=dict(type='mmssl.MLP', dims=(128, 512, 128)),
    head=dict(type='mmssl.MLP', dims=(128, 512, 128)),
    momentum=0.97,
)
