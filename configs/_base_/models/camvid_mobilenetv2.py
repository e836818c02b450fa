# MobileNetV2 on CamVid: the backbone that every head of the comparison gets.
data_preprocessor = dict(
    type='mmssl.SegDataPreProcessor',
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    bgr_to_rgb=True,
    pad_val=0,
    seg_pad_val=11,
    size=(256, 256),
)
model = dict(
    type='mmssl.EncoderDecoder',
    data_preprocessor=data_preprocessor,
    backbone=dict(type='MobileNetV2', widen_factor=1.0, out_indices=(1, 2, 4, 6), norm_cfg=dict(type='BN')),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
