# Linear probing of a MoCo ResNet-50 (v1: https://arxiv.org/abs/1911.05722, section 4.1; v2:
# https://arxiv.org/abs/2003.04297): the backbone is frozen, its batch norms too; a linear layer on the
# averaged features, learning rate 30, no decay, x 0.1 at epochs 60 and 80. Minutes instead of hours, with
# nearly the same answer: `mmssl linear`.
#
#   tools/dist_train.sh configs/moco/benchmarks/resnet50_8xb32-linear-steplr-100e_in1k.py 8 --data DIR \
#       --cfg-options model.backbone.init_cfg.checkpoint=FILE
#
# DIR holds train/<class>/* and val/<class>/*; another number of classes: model.head.num_classes=N
# data_preprocessor.num_classes=N.
# Expected, ImageNet-1k: the official repository reports 60.8 top-1 (+-0.2) for v1, 67.5 (+-0.1) for v2 after
# 200 epochs of pre-training and 71.1 after 800. Not measured here.
default_scope = 'mmpretrain'
_base_ = [
    '../../_base_/models/linear_resnet50.py',
    '../../_base_/datasets/imagenet_probe.py',
    '../../_base_/runtime.py',
]
train_dataloader = dict(batch_size=32)
val_dataloader = dict(batch_size=32)
test_dataloader = val_dataloader
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='mmssl.MergedOptimWrapperConstructor',
    optimizer=dict(type='SGD', lr=30.0, momentum=0.9, weight_decay=0.0),
)
param_scheduler = dict(type='MultiStepLR', milestones=[60, 80], gamma=0.1, by_epoch=True, end=100)
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=100, val_interval=10)
auto_scale_lr = dict(base_batch_size=256)
