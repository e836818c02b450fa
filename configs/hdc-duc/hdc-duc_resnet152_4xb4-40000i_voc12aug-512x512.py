# Understanding Convolution for Semantic Segmentation, https://arxiv.org/abs/1702.08502: HDC and DUC,
# ResNet-152.
#
#   tools/dist_train.sh configs/hdc-duc/hdc-duc_resnet152_4xb4-40000i_voc12aug-512x512.py 4 --data DIR
#   tools/dist_test.sh \
#       configs/hdc-duc/hdc-duc_resnet152_4xb4-40000i_voc12aug-512x512.py CHECKPOINT 4 --data DIR
#
# Expected: the official repository reports 83.1 mIoU on VOC 2012 test at one scale with its own schedule. Not
# measured here.
default_scope = 'mmseg'
_base_ = [
    '../_base_/models/hdc-duc_resnet101.py',
    '../_base_/datasets/voc12aug_512.py',
    '../_base_/schedules/sgd_seg.py',
    '../_base_/seg_runtime.py',
]
data_preprocessor = dict(size=(512, 512))
model = dict(
    backbone=dict(depth=152, init_cfg=dict(checkpoint='torchvision://resnet152')),
    data_preprocessor=data_preprocessor,
    decode_head=dict(num_classes=21),
)
train_dataloader = dict(batch_size=4)
val_evaluator = [dict(type='mmssl.SegmentationMetric'), dict(type='mmssl.BoundaryMetric')]
test_evaluator = val_evaluator
param_scheduler = [dict(type='PolyLR', eta_min=1e-4, power=0.9, begin=0, end=40000, by_epoch=False)]
train_cfg = dict(max_iters=40000, val_interval=4000)
default_hooks = dict(checkpoint=dict(interval=4000))
auto_scale_lr = dict(base_batch_size=16)
