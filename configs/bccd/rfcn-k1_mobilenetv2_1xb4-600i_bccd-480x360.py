# R-FCN, https://arxiv.org/abs/1605.06409, table 2: score maps that know no place in the RoI, the naive
# R-FCN of the paper (k = 1), on MobileNetV2, BCCD.
#
#   python tools/train.py configs/bccd/rfcn-k1_mobilenetv2_1xb4-600i_bccd-480x360.py --data DIR \
#       --cfg-options load_from=BACKBONE
#
# One of the detectors compared on equal terms; BACKBONE is a MobileNetV2 trained on ImageNet, in mmpretrain's
# names. A score is one bin instead of a mean of 49, so that the head has the rate of the other layers.
# Expected: the paper has no figure for this data set.
_base_ = './rfcn_mobilenetv2_1xb4-600i_bccd-480x360.py'
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'roi_head': dict(lr_mult=1.0)}))
model = dict(roi_head=dict(bbox_head=dict(roi_feat_size=1)))
