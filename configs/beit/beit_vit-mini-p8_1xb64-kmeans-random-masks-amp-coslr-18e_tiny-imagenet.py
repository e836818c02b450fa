# BEiT (https://arxiv.org/abs/2106.08254) with single masked patches in place of rectangles, the comparison in
# its ablation, on 64x64 photographs and a CPU.
#
#   python tools/train.py \
#       configs/beit/beit_vit-mini-p8_1xb64-kmeans-random-masks-amp-coslr-18e_tiny-imagenet.py \
#       --data DIR_OR_ZIP
#
# Expected: not measured here. The paper found rectangles better.
_base_ = './beit_vit-mini-p8_1xb64-kmeans-amp-coslr-18e_tiny-imagenet.py'
model = dict(masking='random', min_masked=None)
