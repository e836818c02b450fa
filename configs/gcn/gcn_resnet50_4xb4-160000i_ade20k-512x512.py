# Large Kernel Matters, https://arxiv.org/abs/1703.02719: GCN with ResNet-50, ADE20K, 160000 iterations.
#
#   tools/dist_train.sh configs/gcn/gcn_resnet50_4xb4-160000i_ade20k-512x512.py 4 --data DIR
#   tools/dist_test.sh configs/gcn/gcn_resnet50_4xb4-160000i_ade20k-512x512.py CHECKPOINT 4 --data DIR
#
# Expected: no figure in the paper. Not measured here.
default_scope = 'mmseg'
_base_ = [
    '../_base_/models/gcn_resnet50.py',
    '../_base_/datasets/ade20k_512.py',
    '../_base_/schedules/sgd_seg.py',
    '../_base_/seg_runtime.py',
]
data_preprocessor = dict(size=(512, 512))
model = dict(data_preprocessor=data_preprocessor, decode_head=dict(num_classes=150))
train_dataloader = dict(batch_size=4)
val_evaluator = [dict(type='mmssl.SegmentationMetric'), dict(type='mmssl.BoundaryMetric')]
test_evaluator = val_evaluator
param_scheduler = [dict(type='PolyLR', eta_min=1e-4, power=0.9, begin=0, end=160000, by_epoch=False)]
train_cfg = dict(max_iters=160000, val_interval=16000)
default_hooks = dict(checkpoint=dict(interval=16000))
auto_scale_lr = dict(base_batch_size=16)
