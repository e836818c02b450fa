# R-FCN, https://arxiv.org/abs/1605.06409, on CSPNeXt-S, the backbone of RTMDet (https://arxiv.org/abs/2212.07784):
# the RPN reads its third stage, of stride 16, the position-sensitive maps its fourth, of stride 32. COCO,
# 90000 iterations.
#
#   tools/dist_train.sh configs/rfcn/rfcn_cspnext-s_8xb2-90000i_coco.py 8 --data DIR
#
# Expected: no figure in either paper. Not measured here.
_base_ = './rfcn_vit-base-p16-mae_8xb2-90000i_coco.py'
# what the weights were trained with
data_preprocessor = dict(mean=[103.53, 116.28, 123.675], std=[57.375, 57.12, 58.395], bgr_to_rgb=False)
model = dict(
    data_preprocessor=data_preprocessor,
    backbone=dict(
        _delete_=True,
        type='mmdet.CSPNeXt',
        deepen_factor=0.33,
        widen_factor=0.5,
        out_indices=(3, 4),
        norm_cfg=dict(type='BN'),
        act_cfg=dict(type='SiLU', inplace=True),
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://download.openmmlab.com/mmdetection/v3.0/rtmdet/cspnext_rsb_pretrain/'
            'cspnext-s_imagenet_600e.pth',
            prefix='backbone.',
        ),
    ),
    rpn_head=dict(in_channels=256),
    roi_head=dict(bbox_head=dict(in_channels=512, stride=32)),
)
optim_wrapper = dict(
    optimizer=dict(weight_decay=0.05), paramwise_cfg=dict(_delete_=True, norm_decay_mult=0.0)
)
