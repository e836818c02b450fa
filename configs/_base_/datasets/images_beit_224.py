# The views of BEiT's released code: colour jitter, a random crop of 8 to 100 % of the area, a flip; the crop
# once at 224x224 for the transformer (bicubic) and once at 112x112 for DALL-E's tokenizer (Lanczos), whose
# tokens are 8x8 pixels. The tokenizer undoes the normalisation.
_base_ = './images.py'
train_pipeline = [
    dict(type='mmssl.LoadBEiTViews', scale=224, second_scale=112, crop_ratio_range=(0.08, 1.0), jitter=0.4),
    dict(type='PackInputs'),
]
train_dataloader = dict(batch_size=256, dataset=dict(pipeline=train_pipeline))
