# Large Kernel Matters, https://arxiv.org/abs/1703.02719: GCN with kernels of 15 on MobileNetV2, CamVid.
#
#   python tools/train.py configs/camvid/gcn-k15_mobilenetv2_1xb6-amp-400i_camvid-256x256.py \
#       --data DIR --cfg-options load_from=BACKBONE
#
# One of the heads compared on equal terms; BACKBONE is a MobileNetV2 trained on ImageNet, in mmpretrain's
# names.
# Expected: no figure in the paper.
_base_ = './gcn-k3_mobilenetv2_1xb6-amp-400i_camvid-256x256.py'
model = dict(decode_head=dict(kernel_size=15))
