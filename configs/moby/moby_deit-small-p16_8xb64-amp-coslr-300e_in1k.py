# MoBY (https://arxiv.org/abs/2105.04553): DeiT-S/16, 300 epochs, batch 8 x 64. Here the learned position
# table starts from sines and cosines, and the features are the class token.
#
#   tools/dist_train.sh configs/moby/moby_deit-small-p16_8xb64-amp-coslr-300e_in1k.py 8 --data DIR
#
# Expected, ImageNet-1k: the official repository reports 72.8 top-1 by linear probing. Not measured here.
_base_ = './moby_swin-tiny_8xb64-amp-coslr-300e_in1k.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmssl.ViT',
        arch='small',
        img_size=224,
        patch_size=16,
        drop_path_rate=0.2,  # of the online encoder; the target encoder has none
        out_type='cls_token',
        init_cfg=[
            dict(type='TruncNormal', layer='Linear', std=0.02, bias=0.0),
            dict(type='Constant', layer='LayerNorm', val=1.0, bias=0.0),
        ],
    ),
    neck=dict(dims=(384, 4096, 256)),
)
