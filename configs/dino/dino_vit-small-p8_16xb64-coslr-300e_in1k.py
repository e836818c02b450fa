# DINO (https://arxiv.org/abs/2104.14294): ViT-S/8, 300 epochs, in float32: the released code advises against
# half precision for patches below 16.
#
#   NNODES=2 tools/dist_train.sh configs/dino/dino_vit-small-p8_16xb64-coslr-300e_in1k.py 8 --data DIR
#
# Expected, ImageNet-1k: no figure for these 300 epochs; the official repository's released ViT-S/8, trained
# longer, has 78.3 top-1 by k-NN and 79.7 by linear probing. Not measured here.
_base_ = './dino_vit-small-p16_16xb64-amp-coslr-300e_in1k.py'
model = dict(backbone=dict(patch_size=8))
optim_wrapper = dict(
    _delete_=True,
    type='mmssl.OptimWrapper',
    constructor='mmssl.MergedOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=5e-4 * 1024 / 256, betas=(0.9, 0.999), weight_decay=0.04, fused=True),
    paramwise_cfg=dict(flat_decay_mult=0.0),
    clip_grad=dict(type='each', max_norm=3.0),
)
