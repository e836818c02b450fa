# MoCo v3 (https://arxiv.org/abs/2104.02057): ResNet-50, 100 epochs, batch 8 x 512.
#
#   tools/dist_train.sh configs/mocov3/mocov3_resnet50_8xb512-amp-coslr-100e_in1k.py 8 --data DIR
#
# Expected, ImageNet-1k: the official repository reports 68.9 top-1 by linear probing, mmpretrain 69.6. Not
# measured here.
default_scope = 'mmpretrain'
_base_ = [
    '../_base_/datasets/images_moco-v3_224.py',
    '../_base_/schedules/lars_mocov3.py',
    '../_base_/runtime.py',
]
model = dict(
    type='mmssl.MoCoV3',
    backbone=dict(type='mmpretrain.ResNet', depth=50, zero_init_residual=True),
    neck=dict(type='mmssl.MLP', dims=(2048, 4096, 256), last_bn=True),
    head=dict(
        type='mmssl.MoCoV3Head', predictor=dict(type='mmssl.MLP', dims=(256, 4096, 256)), temperature=1.0
    ),
    momentum=0.99,
)  # 0.996 for 800 and 1000 epochs
train_pipeline = [
    dict(type='mmssl.LoadViews', preset='moco-v3', scale=224, crop_ratio_range=(0.2, 1.0)),
    dict(type='PackInputs'),
]
train_dataloader = dict(batch_size=512, dataset=dict(pipeline=train_pipeline))
sync_bn = 'torch'
