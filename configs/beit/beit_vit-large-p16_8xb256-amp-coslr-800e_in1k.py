# BEiT (https://arxiv.org/abs/2106.08254): ViT-L/16, tokens of DALL-E, 800 epochs, layer scale from 1e-5.
#
#   tools/dist_train.sh configs/beit/beit_vit-large-p16_8xb256-amp-coslr-800e_in1k.py 8 --data DIR
#
# Expected, ImageNet-1k: the paper's abstract gives 86.3 top-1 for its best large model after fine-tuning. Not
# measured here.
_base_ = './beit_vit-base-p16_8xb256-amp-coslr-800e_in1k.py'
model = dict(backbone=dict(arch='large', layer_scale_init_value=1e-5))
