# MAE (https://arxiv.org/abs/2111.06377): ViT-H/14, 300 epochs, batch 8 x 512.
#
#   tools/dist_train.sh configs/mae/mae_vit-huge-p14_8xb512-amp-coslr-300e_in1k.py 8 --data DIR
#
# Expected, ImageNet-1k: the paper gives no figure for 300 epochs. Not measured here.
_base_ = './mae_vit-base-p16_8xb512-amp-coslr-300e_in1k.py'
model = dict(
    backbone=dict(arch='h', patch_size=14),
    neck=dict(num_patches=256, patch_size=14, embed_dim=1280),
    head=dict(patch_size=14),
)
