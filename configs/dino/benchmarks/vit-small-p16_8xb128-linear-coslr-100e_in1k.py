# Linear probing of a DINO ViT-S/16 (https://arxiv.org/abs/2104.14294, appendix F.2): a linear layer on the
# class tokens of the last four blocks of the teacher, SGD without decay, 100 epochs. Minutes instead of
# hours, with nearly the same answer: `mmssl linear`.
#
#   tools/dist_train.sh configs/dino/benchmarks/vit-small-p16_8xb128-linear-coslr-100e_in1k.py 8 --data DIR \
#       --cfg-options model.backbone.init_cfg.checkpoint=FILE
#
# FILE is a checkpoint of the pre-training; of a converted backbone, also
# model.backbone.init_cfg.prefix=backbone.
# Expected, ImageNet-1k: the official repository reports 77.0 top-1 for its released ViT-S/16, about 76.1
# after its 300 epochs and 73.8 after 100. Not measured here.
default_scope = 'mmpretrain'
_base_ = ['../../_base_/datasets/imagenet_224.py', '../../_base_/runtime.py']
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='mmssl.DINOViT',
        arch='s',
        img_size=224,
        patch_size=16,
        frozen_stages=12,
        num_cls_tokens=4,
        init_cfg=dict(type='Pretrained', checkpoint='', prefix='teacher.module.0.'),
    ),
    head=dict(
        type='LinearClsHead',
        num_classes=1000,
        in_channels=4 * 384,
        loss=dict(type='CrossEntropyLoss'),
        init_cfg=dict(type='Normal', layer='Linear', std=0.01),
    ),
)
train_pipeline = [
    dict(
        type='mmssl.LoadRandomResizedCrop', scale=224, crop_ratio_range=(0.08, 1.0), interpolation='bilinear'
    ),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs'),
]
train_dataloader = dict(batch_size=128, dataset=dict(pipeline=train_pipeline))
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='mmssl.MergedOptimWrapperConstructor',
    optimizer=dict(type='SGD', lr=0.001 * 1024 / 256, momentum=0.9, weight_decay=0.0),
)
param_scheduler = dict(type='mmssl.WarmupCosineLR', warmup=0, end=100, by_epoch=True)
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=100, val_interval=10)
auto_scale_lr = dict(base_batch_size=1024)
