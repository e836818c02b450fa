# MoCo v2 with a ResNet-18 of a quarter of the width on five bands; made for tools/trials/five_bands.py, which
# measures measured.py.
_base_ = ['mmssl::moco/mocov2_resnet18_1xb64-amp-coslr-15e_tiny-imagenet.py', './measured.py']
model = dict(
    backbone=dict(
        in_channels=5,
        stem_channels=16,
        base_channels=16,
        num_stages=4,
        strides=(1, 2, 2, 2),
        dilations=(1, 1, 1, 1),
        out_indices=(3,),
    ),
)
data_preprocessor = dict(mean=_base_.mean, std=_base_.std)
train_pipeline = [
    dict(
        type='mmssl.LoadViews',
        preset='moco-v2-bands',
        scale=32,
        crop_ratio_range=(0.5, 1.0),
        blur_prob=0.0,
        channels=5,
        value_range=_base_.value_range,
    ),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    num_workers=0, persistent_workers=False, dataset=dict(data_root='images', pipeline=train_pipeline)
)
param_scheduler = dict(end=12)
train_cfg = dict(max_epochs=12)
custom_hooks = _base_.custom_hooks[:-1]
