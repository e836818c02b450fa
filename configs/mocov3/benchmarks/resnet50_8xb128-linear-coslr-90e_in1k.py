# Linear probing of a MoCo v3 ResNet-50 (https://arxiv.org/abs/2104.02057): the backbone is frozen, its batch
# norms too; a linear layer on the averaged features, SGD, base learning rate 0.1 for a batch of 256, no
# decay, half a cosine over 90 epochs. Minutes instead of hours, with nearly the same answer: `mmssl linear`.
#
#   tools/dist_train.sh configs/mocov3/benchmarks/resnet50_8xb128-linear-coslr-90e_in1k.py 8 --data DIR \
#       --cfg-options model.backbone.init_cfg.checkpoint=FILE
#
# DIR holds train/<class>/* and val/<class>/*; another number of classes: model.head.num_classes=N
# data_preprocessor.num_classes=N.
# Expected, ImageNet-1k: the official repository reports 68.9, 72.8 and 74.6 top-1 after 100, 300 and 1000
# epochs of pre-training. Not measured here.
default_scope = 'mmpretrain'
_base_ = [
    '../../_base_/models/linear_resnet50.py',
    '../../_base_/datasets/imagenet_probe.py',
    '../../_base_/runtime.py',
]
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='mmssl.MergedOptimWrapperConstructor',
    optimizer=dict(type='SGD', lr=0.1 * 1024 / 256, momentum=0.9, weight_decay=0.0),
)
param_scheduler = dict(type='mmssl.WarmupCosineLR', warmup=0, end=90, by_epoch=True)  # once an epoch
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=90, val_interval=10)
auto_scale_lr = dict(base_batch_size=1024)
