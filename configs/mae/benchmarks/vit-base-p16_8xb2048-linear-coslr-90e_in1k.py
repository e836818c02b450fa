# Linear probing of an MAE ViT-B/16 (https://arxiv.org/abs/2111.06377, table 8): a batch norm without
# parameters and a linear layer on the class token, LARS, 90 epochs, batch 8 x 2048. Minutes instead of hours,
# with nearly the same answer: `mmssl linear`.
#
#   tools/dist_train.sh configs/mae/benchmarks/vit-base-p16_8xb2048-linear-coslr-90e_in1k.py 8 --data DIR \
#       --cfg-options model.backbone.init_cfg.checkpoint=FILE
#
# Expected, ImageNet-1k, 1600 epochs of pre-training: 68.0 top-1 in the paper, 67.8 from the released code.
# Not measured here.
default_scope = 'mmpretrain'
_base_ = ['../../_base_/datasets/imagenet_224.py', '../../_base_/runtime.py']
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='mmssl.ViT',
        arch='b',
        img_size=224,
        patch_size=16,
        frozen_stages=12,
        out_type='cls_token',
        init_cfg=dict(type='Pretrained', checkpoint='', prefix='backbone.'),
    ),
    neck=dict(type='ClsBatchNormNeck', input_features=768),
    head=dict(
        type='LinearClsHead',
        num_classes=1000,
        in_channels=768,
        loss=dict(type='CrossEntropyLoss'),
        init_cfg=dict(type='TruncNormal', layer='Linear', std=0.01),
    ),
)
# one draw of the crop, cut to the image, as the released code does here (util/crop.py)
train_pipeline = [
    dict(
        type='mmssl.LoadRandomResizedCrop',
        scale=224,
        crop_ratio_range=(0.08, 1.0),
        interpolation='bicubic',
        clip=True,
    ),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs'),
]
train_dataloader = dict(batch_size=2048, dataset=dict(pipeline=train_pipeline))
optim_wrapper = dict(
    type='mmssl.AmpOptimWrapper',
    dtype='bfloat16',
    constructor='mmssl.MergedOptimWrapperConstructor',
    optimizer=dict(type='mmssl.LARS', lr=0.1 * 16384 / 256, weight_decay=0.0, momentum=0.9),
)
param_scheduler = dict(
    type='mmssl.WarmupCosineLR', warmup=10, end=90, by_epoch=True, convert_to_iter_based=True
)
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=90)
auto_scale_lr = dict(base_batch_size=16384)
