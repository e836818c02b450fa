# Deformable Convolutional Networks, https://arxiv.org/abs/1703.06211: deformable R-FCN, ResNet-101, VOC, 14
# epochs.
#
#   tools/dist_train.sh configs/rfcn/rfcn-deform_resnet101-dconv-c5_4xb1-ohem-58000i_voc0712.py 4 --data DIR
#   tools/dist_test.sh \
#       configs/rfcn/rfcn-deform_resnet101-dconv-c5_4xb1-ohem-58000i_voc0712.py CHECKPOINT 4 --data DIR
#
# Expected: the released code reports 82.3 mAP at IoU 0.5 and 67.8 at 0.7 on VOC 2007 test (R-FCN: 79.6 and
# 63.1). Not measured here.
default_scope = 'mmdet'
_base_ = [
    '../_base_/models/rfcn_resnet50.py',
    '../_base_/datasets/voc0712_600.py',
    '../_base_/schedules/sgd_det.py',
    '../_base_/det_runtime.py',
]
model = dict(
    backbone=dict(
        type='mmssl.DeformResNet',
        depth=101,
        init_cfg=dict(checkpoint='open-mmlab://detectron2/resnet101_caffe'),
    ),
    roi_head=dict(bbox_head=dict(deformable=True)),
    train_cfg=dict(rcnn=dict(ohem=128)),
)
train_dataloader = dict(batch_size=1)
optim_wrapper = dict(optimizer=dict(lr=0.002))
train_cfg = dict(max_iters=58000)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, begin=0, end=1000, by_epoch=False),
    dict(type='MultiStepLR', begin=0, end=58000, by_epoch=False, milestones=[40000], gamma=0.1),
]
auto_scale_lr = dict(base_batch_size=4)
