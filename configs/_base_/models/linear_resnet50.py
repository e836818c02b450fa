# Linear probing of a ResNet-50: a linear layer on the averaged features of the frozen backbone.
# The checkpoint of the pre-training goes into model.backbone.init_cfg.checkpoint.
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='mmpretrain.ResNet',
        depth=50,
        frozen_stages=4,
        init_cfg=dict(type='Pretrained', checkpoint='', prefix='backbone.'),
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=1000,
        in_channels=2048,
        loss=dict(type='CrossEntropyLoss'),
        init_cfg=dict(type='Normal', layer='Linear', std=0.01),
    ),
)
