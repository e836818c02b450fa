# Large Kernel Matters, https://arxiv.org/abs/1703.02719: GCN with ResNet-152, VOC 2012 with the additional
# annotations, 40000 iterations.
#
#   tools/dist_train.sh configs/gcn/gcn_resnet152_4xb4-40000i_voc12aug-512x512.py 4 --data DIR
#   tools/dist_test.sh configs/gcn/gcn_resnet152_4xb4-40000i_voc12aug-512x512.py CHECKPOINT 4 --data DIR
#
# Expected: the paper reports 82.2 mIoU on VOC 2012 test after three stages of training with COCO, and no
# figure for this schedule. Not measured here.
default_scope = 'mmseg'
_base_ = [
    '../_base_/models/gcn_resnet50.py',
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
