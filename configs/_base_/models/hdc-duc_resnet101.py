# HDC and DUC on ResNet-101, stride 8: dilations of the released network, four dilated predictions summed.
data_preprocessor = dict(
    type='mmssl.SegDataPreProcessor',
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    bgr_to_rgb=True,
    pad_val=0,
    seg_pad_val=255,
)
model = dict(
    type='mmssl.EncoderDecoder',
    data_preprocessor=data_preprocessor,
    backbone=dict(
        type='mmssl.HDCResNet',
        depth=101,
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet101'),
    ),
    decode_head=dict(
        type='mmssl.DUCHead',
        in_channels=2048,
        num_classes=19,
        factor=8,
        dilations=(6, 12, 18, 24),
        loss_decode=dict(type='CrossEntropyLoss', avg_non_ignore=True),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
