# BEiT (https://arxiv.org/abs/2106.08254) without a download: ViT-L/16, 800 epochs, k-means tokens of your own
# images.
#
#   mmssl tokenizer fit --data DIR --out data/tokenizer_8192.pth
#   tools/dist_train.sh configs/beit/beit_vit-large-p16_8xb256-kmeans-amp-coslr-800e_in1k.py 8 --data DIR
#
# Expected: there is no figure for this tokenizer, neither in the paper nor measured here.
_base_ = './beit_vit-base-p16_8xb256-kmeans-amp-coslr-800e_in1k.py'
model = dict(backbone=dict(arch='large', layer_scale_init_value=1e-5))
