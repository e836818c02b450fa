# Large Kernel Matters, https://arxiv.org/abs/1703.02719: GCN with kernels of 3 on MobileNetV2, CamVid.
#
#   python tools/train.py configs/camvid/gcn-k3_mobilenetv2_1xb6-amp-400i_camvid-256x256.py \
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
    decode_head=dict(
        type='mmssl.GlobalConvHead',
        in_channels=[24, 32, 96, 320],
        kernel_size=3,
        num_classes=11,
        ignore_index=11,
        loss_decode=dict(type='CrossEntropyLoss', avg_non_ignore=True),
    )
)
auto_scale_lr = dict(base_batch_size=6)
