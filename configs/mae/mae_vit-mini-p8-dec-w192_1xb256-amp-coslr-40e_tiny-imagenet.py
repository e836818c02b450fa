# MAE (https://arxiv.org/abs/2111.06377) on 64x64 photographs:
# a decoder of 192 channels, twice as wide (table 1b).
#
#   python tools/train.py configs/mae/mae_vit-mini-p8-dec-w192_1xb256-amp-coslr-40e_tiny-imagenet.py \
#       --data DIR_OR_ZIP
#
# One setting of the config below is changed, as in the paper's table.
# Expected: the paper has no figure for this size.
_base_ = './mae_vit-mini-p8_1xb256-amp-coslr-40e_tiny-imagenet.py'
model = dict(neck=dict(decoder_embed_dim=192))
