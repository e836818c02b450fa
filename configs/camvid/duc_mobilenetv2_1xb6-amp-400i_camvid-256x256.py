# Understanding Convolution for Semantic Segmentation, https://arxiv.org/abs/1702.08502: dense upsampling
# (ASPP form) on a MobileNetV2 with hybrid dilations, CamVid.
#
#   python tools/train.py configs/camvid/duc_mobilenetv2_1xb6-amp-400i_camvid-256x256.py \
#       --data DIR --cfg-options load_from=BACKBONE
#
# One of the heads compared on equal terms; BACKBONE is a MobileNetV2 trained on ImageNet, in mmpretrain's
# names.
# Expected: no figure in the paper.
default_scope = 'mmseg'
_base_ = [
    '../_base_/models/camvid_mobilenetv2.py',
    '../_base_/datasets/camvid_360x480.py',
    '../_base_/schedules/adamw_camvid.py',
]
model = dict(
    backbone=dict(strides=(1, 2, 2, 1, 1, 1, 1), dilations=(1, 1, 1, 1, 2, 5, 9)),
    decode_head=dict(
        type='mmssl.DUCHead',
        in_channels=320,
        factor=8,
        dilations=(1, 6),
        num_classes=11,
        ignore_index=11,
        loss_decode=dict(type='CrossEntropyLoss', avg_non_ignore=True),
    ),
)
auto_scale_lr = dict(base_batch_size=6)
