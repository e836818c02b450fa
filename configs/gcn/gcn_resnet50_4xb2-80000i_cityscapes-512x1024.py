# Large Kernel Matters, https://arxiv.org/abs/1703.02719: GCN with ResNet-50, Cityscapes, 80000 iterations.
#
#   tools/dist_train.sh configs/gcn/gcn_resnet50_4xb2-80000i_cityscapes-512x1024.py 4 --data DIR
#   tools/dist_test.sh configs/gcn/gcn_resnet50_4xb2-80000i_cityscapes-512x1024.py CHECKPOINT 4 --data DIR
#
# Expected: the paper reports 76.9 mIoU on the test set with ResNet-152 and its own schedule, and no figure
# for this one. Not measured here.
default_scope = 'mmseg'
_base_ = [
    '../_base_/models/gcn_resnet50.py',
    '../_base_/datasets/cityscapes_512x1024.py',
    '../_base_/schedules/sgd_seg.py',
    '../_base_/seg_runtime.py',
]
data_preprocessor = dict(size=(512, 1024))
model = dict(data_preprocessor=data_preprocessor, decode_head=dict(num_classes=19))
train_dataloader = dict(batch_size=2)
val_evaluator = [dict(type='mmssl.SegmentationMetric'), dict(type='mmssl.BoundaryMetric')]
test_evaluator = val_evaluator
param_scheduler = [dict(type='PolyLR', eta_min=1e-4, power=0.9, begin=0, end=80000, by_epoch=False)]
train_cfg = dict(max_iters=80000, val_interval=8000)
default_hooks = dict(checkpoint=dict(interval=8000))
auto_scale_lr = dict(base_batch_size=8)
