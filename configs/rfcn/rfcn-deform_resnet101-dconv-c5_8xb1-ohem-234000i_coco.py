# Deformable Convolutional Networks, https://arxiv.org/abs/1703.06211: deformable R-FCN, ResNet-101, COCO, 16
# epochs.
#
#   tools/dist_train.sh configs/rfcn/rfcn-deform_resnet101-dconv-c5_8xb1-ohem-234000i_coco.py 8 --data DIR
#   tools/dist_test.sh \
#       configs/rfcn/rfcn-deform_resnet101-dconv-c5_8xb1-ohem-234000i_coco.py CHECKPOINT 8 --data DIR
#
# Expected: the released code reports 35.7 AP on COCO test-dev. Not measured here.
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
    roi_head=dict(bbox_head=dict(deformable=True, num_classes=80)),
    train_cfg=dict(rcnn=dict(ohem=128)),
)
optim_wrapper = dict(optimizer=dict(lr=0.004))
train_cfg = dict(max_iters=234000)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, begin=0, end=1000, by_epoch=False),
    dict(type='MultiStepLR', begin=0, end=234000, by_epoch=False, milestones=[156000], gamma=0.1),
]
auto_scale_lr = dict(base_batch_size=8)
