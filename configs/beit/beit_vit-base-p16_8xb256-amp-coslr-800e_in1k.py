# BEiT (https://arxiv.org/abs/2106.08254): ViT-B/16, tokens of DALL-E, 800 epochs, as in the paper.
#
#   tools/dist_train.sh configs/beit/beit_vit-base-p16_8xb256-amp-coslr-800e_in1k.py 8 --data DIR
#
# Expected, ImageNet-1k: the paper gives 83.2 top-1 after fine-tuning. Not measured here.
_base_ = './beit_vit-base-p16_8xb256-amp-coslr-300e_in1k.py'
param_scheduler = dict(end=800)
train_cfg = dict(max_epochs=800)
