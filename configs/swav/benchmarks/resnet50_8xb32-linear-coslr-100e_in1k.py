# Linear probing of a SwAV ResNet-50 (https://arxiv.org/abs/2006.09882): a linear layer on the frozen,
# averaged features, 100 epochs, batch 8 x 32. Minutes instead of hours, with nearly the same answer: `mmssl
# linear`.
#
#   tools/dist_train.sh configs/swav/benchmarks/resnet50_8xb32-linear-coslr-100e_in1k.py 8 --data DIR \
#       --cfg-options model.backbone.init_cfg.checkpoint=FILE
#
# DIR holds train/<class>/* and val/<class>/*. Expected, ImageNet-1k, 800 epochs of pre-training: the official
# repository reports 75.3 top-1. Not measured here.
default_scope = 'mmpretrain'
_base_ = [
    '../../_base_/models/linear_resnet50.py',
    '../../_base_/datasets/imagenet_probe.py',
    '../../_base_/runtime.py',
]
model = dict(backbone=dict(norm_eval=True))
data_preprocessor = dict(std=[58.14, 57.12, 57.375])  # as in pre-training
train_dataloader = dict(batch_size=32)
optim_wrapper = dict(
    type='mmssl.AmpOptimWrapper',
    dtype='bfloat16',
    optimizer=dict(type='SGD', lr=0.3, momentum=0.9, weight_decay=1e-6),
)
param_scheduler = dict(type='mmssl.WarmupCosineLR', warmup=0, end=100, by_epoch=True)
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=100)
auto_scale_lr = dict(base_batch_size=256)
