# DINO (https://arxiv.org/abs/2104.14294): dino-mini, the small one in the package, trained on crops of
# photographs that may be redistributed.
#
#   python tools/weights/cc_photos.py --coco DIR --bccd DIR --out data/cc-photos
#   python tools/train.py configs/dino/dino_vit-mini-p8_1xb64-amp-coslr-6e_cc-photos.py
#
# Expected: see docs/weights.md, measured here.
_base_ = './dino_vit-mini-p8_1xb64-amp-coslr-12e_tiny-imagenet.py'
train_dataloader = dict(dataset=dict(data_root='data/cc-photos', data_prefix='crops/train'))
param_scheduler = [
    dict(
        type='mmssl.WarmupCosineLR',
        warmup=1,
        end=6,
        eta_min=1e-6,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
    dict(type='mmssl.CosineWeightDecay', final=0.4, end=6, by_epoch=True, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=6)
custom_hooks = [hook for hook in _base_.custom_hooks if hook['type'] != 'mmssl.KNNHook']
