# R-FCN, https://arxiv.org/abs/1605.06409, table 2: k = 3: 3 x 3 bins, on
# MobileNetV2, BCCD.
#
#   python tools/train.py configs/bccd/rfcn-k3_mobilenetv2_1xb4-600i_bccd-480x360.py --data DIR \
#       --cfg-options load_from=BACKBONE
#
# One of the detectors compared on equal terms; BACKBONE is a MobileNetV2 trained on ImageNet, in mmpretrain's
# names.
# Expected: the paper has no figure for this data set.
_base_ = './rfcn_mobilenetv2_1xb4-600i_bccd-480x360.py'
model = dict(roi_head=dict(bbox_head=dict(roi_feat_size=3)))
