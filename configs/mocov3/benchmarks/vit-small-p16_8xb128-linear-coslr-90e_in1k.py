# Linear probing of a MoCo v3 ViT-S/16 (https://arxiv.org/abs/2104.02057): a linear layer on the class token
# of the frozen backbone, SGD, base learning rate 3 for a batch of 256, no decay, half a cosine over 90
# epochs.
#
#   tools/dist_train.sh configs/mocov3/benchmarks/vit-small-p16_8xb128-linear-coslr-90e_in1k.py 8 --data DIR \
#       --cfg-options model.backbone.init_cfg.checkpoint=FILE
#
# Expected, ImageNet-1k: the official repository reports 73.2 top-1 after 300 epochs of pre-training. Not
# measured here.
_base_ = './resnet50_8xb128-linear-coslr-90e_in1k.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmssl.MoCoV3ViT',
        arch='small',
        img_size=224,
        patch_size=16,
        frozen_stages=12,
        init_cfg=dict(type='Pretrained', checkpoint='', prefix='backbone.'),
    ),
    neck=None,
    head=dict(in_channels=384),
)
optim_wrapper = dict(optimizer=dict(lr=3.0 * 1024 / 256))
