# Large Kernel Matters, https://arxiv.org/abs/1703.02719: three convolutions of 3 x 3 in place of GCN's
# kernel of 7, the baseline of table 3, on MobileNetV2, CamVid.
#
#   python tools/train.py configs/camvid/gcn-k7-stack_mobilenetv2_1xb6-amp-400i_camvid-256x256.py \
#       --data DIR --cfg-options load_from=BACKBONE
#
# One of the heads compared on equal terms; BACKBONE is a MobileNetV2 trained on ImageNet, in mmpretrain's
# names.
# Expected: no figure in the paper for this backbone and data set.
_base_ = './gcn-k3_mobilenetv2_1xb6-amp-400i_camvid-256x256.py'
model = dict(decode_head=dict(convolution='stack', kernel_size=7))
