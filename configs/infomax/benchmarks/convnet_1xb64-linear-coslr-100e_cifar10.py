# Linear probing of Deep InfoMax's encoder for images of the size of CIFAR's
# (https://arxiv.org/abs/1808.06670): a linear layer on the dense layer of 1024 units, encoder frozen. Minutes
# instead of hours, with nearly the same answer: `mmssl linear`.
#
#   python tools/train.py configs/infomax/benchmarks/convnet_1xb64-linear-coslr-100e_cifar10.py --data DIR \
#       --cfg-options model.backbone.init_cfg.checkpoint=FILE
#
# DIR holds train/<class>/* and val/<class>/*; another number of classes: model.head.num_classes=N
# data_preprocessor.num_classes=N.
# Expected: no figure, the paper reports a classifier with a hidden layer
# (convnet_1xb64-mlp-coslr-100e_cifar10.py) and support vector machines. Not measured here.
default_scope = 'mmpretrain'
_base_ = ['../../_base_/datasets/imagenet_224.py', '../../_base_/runtime.py']
data_preprocessor = dict(num_classes=10, mean=[125.307, 122.961, 113.8575], std=[51.5865, 50.847, 51.255])
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='mmssl.InfoMaxEncoder',
        img_size=32,
        channels=(64, 128, 256),
        hidden=1024,
        out_indices=(3,),
        frozen_stages=4,
        init_cfg=dict(type='Pretrained', checkpoint='', prefix='backbone.'),
    ),
    head=dict(
        type='LinearClsHead',
        num_classes=10,
        in_channels=1024,
        loss=dict(type='CrossEntropyLoss'),
        init_cfg=dict(type='Normal', layer='Linear', std=0.01),
    ),
)
train_pipeline = [
    dict(type='mmssl.LoadCenterCrop', scale=32, ratio=1.0),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=64, num_workers=4, dataset=dict(data_root='data/cifar10', pipeline=train_pipeline)
)
val_dataloader = dict(
    batch_size=256, num_workers=4, dataset=dict(data_root='data/cifar10', pipeline=train_pipeline)
)
test_dataloader = val_dataloader
optim_wrapper = dict(
    type='mmssl.OptimWrapper',
    constructor='mmssl.MergedOptimWrapperConstructor',
    optimizer=dict(type='Adam', lr=1e-3, fused=True),
)
param_scheduler = dict(
    type='mmssl.WarmupCosineLR', warmup=0, end=100, by_epoch=True, convert_to_iter_based=True
)
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=100, val_interval=10)
auto_scale_lr = dict(base_batch_size=64)
