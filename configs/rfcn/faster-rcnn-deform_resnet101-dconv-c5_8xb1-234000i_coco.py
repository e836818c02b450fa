# Deformable Convolutional Networks, https://arxiv.org/abs/1703.06211: deformable Faster R-CNN with two
# layers, COCO.
#
#   tools/dist_train.sh configs/rfcn/faster-rcnn-deform_resnet101-dconv-c5_8xb1-234000i_coco.py 8 --data DIR
#   tools/dist_test.sh \
#       configs/rfcn/faster-rcnn-deform_resnet101-dconv-c5_8xb1-234000i_coco.py CHECKPOINT 8 --data DIR
#
# Expected: the released code reports 35.0 AP on COCO test-dev. Not measured here.
default_scope = 'mmdet'
_base_ = [
    '../_base_/models/rfcn_resnet50.py',
    '../_base_/datasets/coco_det_600.py',
    '../_base_/schedules/sgd_det.py',
    '../_base_/det_runtime.py',
]
model = dict(
    backbone=dict(
        type='mmssl.DeformResNet',
        depth=101,
        init_cfg=dict(checkpoint='open-mmlab://detectron2/resnet101_caffe'),
    ),
    rpn_head=dict(anchor_generator=dict(scales=[4, 8, 16, 32])),
    roi_head=dict(
        _delete_=True,
        type='StandardRoIHead',
        bbox_roi_extractor=dict(
            type='mmssl.DeformRoIExtractor', in_channels=2048, out_channels=256, featmap_strides=[16]
        ),
        bbox_head=dict(
            type='Shared2FCBBoxHead',
            in_channels=256,
            fc_out_channels=1024,
            roi_feat_size=7,
            num_classes=80,
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
optim_wrapper = dict(
    optimizer=dict(lr=0.004), paramwise_cfg=dict(custom_keys={'offset_fc': dict(lr_mult=0.01)})
)
train_cfg = dict(max_iters=234000)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, begin=0, end=1000, by_epoch=False),
    dict(type='MultiStepLR', begin=0, end=234000, by_epoch=False, milestones=[156000], gamma=0.1),
]
auto_scale_lr = dict(base_batch_size=8)
