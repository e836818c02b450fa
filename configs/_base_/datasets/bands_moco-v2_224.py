# Images that are not 8-bit RGB, of any number of channels: the two views of MoCo v2 with changes of each
# channel by itself (gain, offset, gamma, noise, dropout of channels) in place of those of colours. The other
# presets are byol-bands, dino-bands, moco-v1-bands, moco-v3-bands, simclr-bands and swav-bands. Each image is
# stretched by its own percentiles. A measured range is better: give `value_range`, `mean` and `std` of
# `mmssl stats DIR --out measured.py`, see docs/images.md; and model = dict(backbone=dict(in_channels=N)).
_base_ = './images.py'
data_preprocessor = dict(mean=[127.5], std=[64.0], to_rgb=True)
train_pipeline = [
    dict(type='mmssl.LoadViews', preset='moco-v2-bands', scale=224, value_range='image'),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
