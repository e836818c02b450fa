# DenseASPP for Semantic Segmentation in Street Scenes (Yang et al., CVPR 2018): dilated convolutions,
# connected as in https://arxiv.org/abs/1608.06993, on a MobileNetV2 of stride 8, CamVid.
#
#   python tools/train.py configs/camvid/dense-aspp_mobilenetv2_1xb6-amp-400i_camvid-256x256.py \
#       --data DIR --cfg-options load_from=BACKBONE
#
# One of the heads compared on equal terms; BACKBONE is a MobileNetV2 trained on ImageNet, in mmpretrain's
# names.
# Expected: no figure in the paper for this backbone and data set.
default_scope = 'mmseg'
_base_ = [
    '../_base_/models/camvid_mobilenetv2.py',
    '../_base_/datasets/camvid_360x480.py',
    '../_base_/schedules/adamw_camvid.py',
]
model = dict(
    backbone=dict(strides=(1, 2, 2, 1, 1, 1, 1), dilations=(1, 1, 1, 2, 2, 4, 4)),
    decode_head=dict(
        type='mmssl.DenseASPPHead',
        in_channels=320,
        dilations=(3, 6, 12, 18, 24),
        num_classes=11,
        ignore_index=11,
        norm_cfg=dict(type='BN'),
        loss_decode=dict(type='CrossEntropyLoss', avg_non_ignore=True),
    ),
)
auto_scale_lr = dict(base_batch_size=6)
