# Segment Anything with a ViT-B at 1024: 12 blocks, four of them global, 256 channels.
data_preprocessor = dict(
    type='mmssl.ImgDataPreprocessor',
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    bgr_to_rgb=True,
    pad_size_divisor=1024,
)
model = dict(
    type='mmssl.InteractiveSAM',
    data_preprocessor=data_preprocessor,
    rounds=11,
    silent_rounds=2,
    max_masks=64,
    checkpoint_rounds=True,
    clicks=dict(clicks=9),
    model=dict(type='mmssl.SAM', image_encoder=dict(type='mmssl.SAMImageEncoder', arch='vit_b')),
)
