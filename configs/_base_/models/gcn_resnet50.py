# GCN on ResNet-50: four levels at strides 4 to 32, kernels of 15, nine refinements, learned deconvolution.
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
        type='ResNet',
        depth=50,
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet50'),
    ),
    decode_head=dict(
        type='mmssl.GlobalConvHead',
        in_channels=[256, 512, 1024, 2048],
        num_classes=21,
        kernel_size=15,
        upsample='deconv',
        loss_decode=dict(type='CrossEntropyLoss', avg_non_ignore=True),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
