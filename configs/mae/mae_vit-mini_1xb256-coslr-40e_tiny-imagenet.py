_base_ = './mae_vit-mini-p8_1xb256-amp-coslr-40e_tiny-imagenet.py'
