# Linear probing of a MoBY DeiT-S/16 (https://arxiv.org/abs/2105.04553, section 4.1) on its class token; see
# swin-tiny_8xb64-linear-coslr-100e_in1k.py.
#
#   tools/dist_train.sh configs/moby/benchmarks/deit-small-p16_8xb64-linear-coslr-100e_in1k.py 8 --data DIR \
#       --cfg-options model.backbone.init_cfg.checkpoint=FILE
#
# Expected, ImageNet-1k: the official repository reports 72.8 top-1 from 300 epochs of pre-training. Not
# measured here.
_base_ = './swin-tiny_8xb64-linear-coslr-100e_in1k.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmssl.ViT',
        arch='small',
        img_size=224,
        patch_size=16,
        frozen_stages=12,
        out_type='cls_token',
        init_cfg=dict(type='Pretrained', checkpoint='', prefix='backbone.'),
    ),
    neck=None,
    head=dict(in_channels=384),
)
