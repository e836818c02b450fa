# R-FCN, https://arxiv.org/abs/1605.06409: ResNet-101, online hard examples, VOC 2007 and 2012.
#
#   python tools/train.py configs/rfcn/rfcn_resnet101_1xb2-ohem-110000i_voc0712.py --data DIR
#   python tools/test.py configs/rfcn/rfcn_resnet101_1xb2-ohem-110000i_voc0712.py CHECKPOINT --data DIR
#
# Expected: the released code reports 79.5 mAP (IoU 0.5) on VOC 2007 test. Not measured here.
default_scope = 'mmdet'
_base_ = [
    '../_base_/models/rfcn_resnet50.py',
    '../_base_/datasets/voc0712_600.py',
    '../_base_/schedules/sgd_det.py',
    '../_base_/det_runtime.py',
]
model = dict(
    backbone=dict(depth=101, init_cfg=dict(checkpoint='open-mmlab://detectron2/resnet101_caffe')),
    train_cfg=dict(rcnn=dict(ohem=128)),
)
auto_scale_lr = dict(base_batch_size=2)
