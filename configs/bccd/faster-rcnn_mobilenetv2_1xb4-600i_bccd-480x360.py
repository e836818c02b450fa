# Faster R-CNN, https://arxiv.org/abs/1506.01497: mmdet's Faster R-CNN, both stages on the dilated last stage,
# on MobileNetV2, BCCD.
#
#   python tools/train.py configs/bccd/faster-rcnn_mobilenetv2_1xb4-600i_bccd-480x360.py \
#       --data DIR --cfg-options load_from=BACKBONE
#
# One of the detectors compared on equal terms; BACKBONE is a MobileNetV2 trained on ImageNet, in mmpretrain's
# names.
# Expected: no figure in the paper.
default_scope = 'mmdet'
_base_ = [
    '../_base_/models/bccd_mobilenetv2.py',
    '../_base_/datasets/bccd_360x480.py',
    '../_base_/schedules/adamw_det_bccd.py',
    '../_base_/det_runtime.py',
]
model = dict(
    type='FasterRCNN',
    backbone=dict(out_indices=(6,)),
    rpn_head=dict(in_channels=320),
    roi_head=dict(
        type='StandardRoIHead',
        bbox_roi_extractor=dict(
            type='SingleRoIExtractor',
            roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=0),
            out_channels=320,
            featmap_strides=[16],
        ),
        bbox_head=dict(
            type='Shared2FCBBoxHead',
            in_channels=320,
            fc_out_channels=1024,
            roi_feat_size=7,
            num_classes=3,
            bbox_coder=dict(
                type='DeltaXYWHBBoxCoder', target_means=[0.0, 0.0, 0.0, 0.0], target_stds=[0.1, 0.1, 0.2, 0.2]
            ),
            reg_class_agnostic=True,
            loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
            loss_bbox=dict(type='SmoothL1Loss', beta=1.0, loss_weight=1.0),
        ),
    ),
    train_cfg=dict(
        rcnn=dict(
            sampler=dict(
                type='RandomSampler', num=128, pos_fraction=0.25, neg_pos_ub=-1, add_gt_as_proposals=True
            )
        )
    ),
)
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=300))
auto_scale_lr = dict(base_batch_size=4)
