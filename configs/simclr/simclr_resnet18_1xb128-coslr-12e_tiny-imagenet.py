# SimCLR (https://arxiv.org/abs/2002.05709) on 64x64 photographs and one CPU core: the first three stages of a
# ResNet-18 of half the width, 12 epochs, five minutes of CPU for 6,000 images. Fitted to 552 steps: AdamW,
# temperature 0.2, weaker colour jitter, neither grey nor blur.
#
#   python tools/train.py configs/simclr/simclr_resnet18_1xb128-coslr-12e_tiny-imagenet.py --data DIR_OR_ZIP
#
# DIR_OR_ZIP holds train/<class>/* and val/<class>/*; k-NN is measured at the start and at the end.
# Expected: see docs/results/selfsup.md, measured here.
_base_ = '../_base_/tiny-imagenet_resnet18.py'
model = dict(
    type='mmssl.SimCLR',
    neck=dict(type='mmssl.MLP', dims=(128, 256, 128), last_bn=True),
    temperature=0.2,
)
train_pipeline = [
    dict(
        type='mmssl.LoadViews',
        preset='simclr',
        scale=64,
        crop_ratio_range=(0.2, 1.0),
        jitter=(0.2, 0.2, 0.2, 0.05),
        gray_prob=0.0,
        blur_prob=0.0,
    ),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
