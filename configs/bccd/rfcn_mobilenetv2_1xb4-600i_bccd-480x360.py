# R-FCN, https://arxiv.org/abs/1605.06409: R-FCN on MobileNetV2, BCCD.
#
#   python tools/train.py configs/bccd/rfcn_mobilenetv2_1xb4-600i_bccd-480x360.py --data DIR \
#       --cfg-options load_from=BACKBONE
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
    type='mmssl.RFCN',
    roi_head=dict(
        type='mmssl.RFCNRoIHead',
        bbox_head=dict(
            type='mmssl.RFCNBBoxHead',
            in_channels=320,
            num_classes=3,
            init_cfg=dict(
                type='Normal',
                layer='Conv2d',
                std=0.01,
                override=[
                    dict(type='Xavier', name='conv_new', distribution='uniform'),
                    dict(type='Normal', name='rfcn_cls', std=0.1),
                ],
            ),
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
# a vote is a mean of 49 bins, and every map gets a 49th of its gradient: scores start larger and learn faster
# than elsewhere
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'roi_head': dict(lr_mult=3.0)}))
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=300))
auto_scale_lr = dict(base_batch_size=4)
