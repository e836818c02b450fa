# MoBY (https://arxiv.org/abs/2105.04553): Swin-T, 300 epochs, batch 8 x 64. The views are MoCo v3's, which
# are BYOL's.
#
#   tools/dist_train.sh configs/moby/moby_swin-tiny_8xb64-amp-coslr-300e_in1k.py 8 --data DIR
#
# Expected, ImageNet-1k: the official repository reports 75.3 top-1 by linear probing. Not measured here.
default_scope = 'mmpretrain'
_base_ = [
    '../_base_/datasets/images_moco-v3_224.py',
    '../_base_/schedules/adamw_moby.py',
    '../_base_/runtime.py',
]
model = dict(
    type='mmssl.MoBY',
    backbone=dict(
        type='mmpretrain.SwinTransformer',
        arch='tiny',
        img_size=224,
        drop_path_rate=0.2,  # of the online encoder; the target encoder has none
        init_cfg=[
            dict(type='TruncNormal', layer='Linear', std=0.02, bias=0.0),
            dict(type='Constant', layer='LayerNorm', val=1.0, bias=0.0),
        ],
    ),
    neck=dict(type='mmssl.MLP', dims=(768, 4096, 256), bias=True),
    head=dict(type='mmssl.MLP', dims=(256, 4096, 256), bias=True),
    queue_len=4096,
    temperature=0.2,
    momentum=0.99,
    final_momentum=1.0,
)
train_dataloader = dict(batch_size=64)
sync_bn = 'torch'
