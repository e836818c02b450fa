# Segment Anything, https://arxiv.org/abs/2304.02643: sam-mini, the small one in the package, on MobileNetV2,
# trained on photographs that may be redistributed.
#
#   python tools/weights/cc_photos.py --coco DIR --bccd DIR --out data/cc-photos
#   python tools/train.py configs/sam/sam_mobilenetv2-s8_1xb4-amp-3100i_cc-photos-192.py \
#       --cfg-options load_from=BACKBONE
#
# DIR of --coco holds coco_mini and coco_light; BACKBONE is a MobileNetV2 trained on ImageNet, in mmpretrain's
# names (mmssl convert mobilenetv2). 192 pixels with a map of stride 8, so that masks have 96 x 96 pixels; the
# rate is constant until the last 500 iterations. The file in the package comes from four runs, which this
# config sums up and the card describes.
# Expected: see docs/weights.md, measured here.
_base_ = ['./sam_mobilenetv2_1xb4-amp-1400i_coco-minis-256.py']
data_preprocessor = dict(pad_size_divisor=192)
model = dict(
    data_preprocessor=data_preprocessor,
    losses=dict(focal_weight=2.0, gamma=0.0),
    rounds=3,
    max_masks=4,
    model=dict(image_encoder=dict(img_size=192, stride=8)),
)
train_pipeline = [
    dict(type='mmssl.LoadImage'),
    dict(type='mmssl.LoadMasks', max_masks=4),
    dict(type='mmssl.ResizeLongest', scale=192, ratio_range=(0.8, 1.6), min_pixels=30),
    dict(type='mmssl.FlipWithMasks'),
    dict(type='mmssl.PackPrompts'),
]
test_pipeline = [
    dict(type='mmssl.LoadImage'),
    dict(type='mmssl.ResizeLongest', scale=192),
    dict(type='mmssl.LoadMasks', max_area_fraction=1.0),
    dict(type='mmssl.PackPrompts'),
]
masks = dict(
    type='mmssl.CocoMasks',
    data_root='data/cc-photos',
    data_prefix=dict(img_path='masks/images'),
    pipeline=train_pipeline,
)
train_dataloader = dict(
    dataset=dict(
        datasets=[
            dict(
                type='mmengine.RepeatDataset',
                times=20,
                dataset=dict(ann_file='masks/photos.json', **masks),
            ),
            dict(ann_file='masks/composites.json', **masks),
        ],
    ),
)
test_datasets = [dict(each, pipeline=test_pipeline) for each in _base_.val_dataloader.dataset.datasets]
val_dataloader = dict(dataset=dict(datasets=test_datasets))
test_dataloader = val_dataloader
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=30, by_epoch=False),
    dict(type='LinearLR', start_factor=1.0, end_factor=0.01, begin=2600, end=3100, by_epoch=False),
]
train_cfg = dict(max_iters=3100, val_interval=3100)
default_hooks = dict(checkpoint=dict(interval=200))
del masks, test_datasets
