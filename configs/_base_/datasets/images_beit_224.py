# Any folder of images, as BEiT's released code augments them: colours changed, a random crop of 8 to 100 % of the area, a flip; the crop
# once at 224x224 for the transformer (bicubic) and once at 112x112 for DALL-E's tokenizer (lanczos), which makes a token of 8x8 pixels.
# Images travel to the device as bytes and are normalised there; the tokenizer undoes that.
data_preprocessor = dict(
    type='SelfSupDataPreprocessor',
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    to_rgb=True,
    non_blocking=True,
)
train_pipeline = [
    dict(type='mmssl.LoadBEiTViews', scale=224, second_scale=112, crop_ratio_range=(0.08, 1.0), jitter=0.4),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=256,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='mmssl.ImageFolder', data_root='data/imagenet', data_prefix='train', pipeline=train_pipeline
    ),
)
