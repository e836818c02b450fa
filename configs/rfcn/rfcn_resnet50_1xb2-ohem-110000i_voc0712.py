# R-FCN, https://arxiv.org/abs/1605.06409: ResNet-50, online hard examples, VOC 2007 and 2012.
#
#   python tools/train.py configs/rfcn/rfcn_resnet50_1xb2-ohem-110000i_voc0712.py --data DIR
#   python tools/test.py configs/rfcn/rfcn_resnet50_1xb2-ohem-110000i_voc0712.py CHECKPOINT --data DIR
#
# Expected: the released code reports 77.4 mAP (IoU 0.5) on VOC 2007 test, the mean of five runs from 77.0 to
# 77.9. Not measured here.
default_scope = 'mmdet'
_base_ = [
    '../_base_/models/rfcn_resnet50.py',
    '../_base_/datasets/voc0712_600.py',
    '../_base_/schedules/sgd_det.py',
    '../_base_/det_runtime.py',
]
model = dict(train_cfg=dict(rcnn=dict(ohem=128)))
auto_scale_lr = dict(base_batch_size=2)
