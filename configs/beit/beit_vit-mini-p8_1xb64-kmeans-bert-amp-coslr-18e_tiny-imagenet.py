# BEiT (https://arxiv.org/abs/2106.08254) with BERT's replacement (https://arxiv.org/abs/1810.04805, section
# 3.1): of the masked patches 80 % become the mask token, 10 % another patch, 10 % stay; on 64x64 photographs
# and a CPU.
#
#   python tools/train.py configs/beit/beit_vit-mini-p8_1xb64-kmeans-bert-amp-coslr-18e_tiny-imagenet.py \
#       --data DIR_OR_ZIP
#
# Expected: not measured here.
_base_ = './beit_vit-mini-p8_1xb64-kmeans-amp-coslr-18e_tiny-imagenet.py'
model = dict(replacement=(0.8, 0.1, 0.1))
