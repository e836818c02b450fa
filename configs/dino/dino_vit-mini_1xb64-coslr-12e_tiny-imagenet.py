_base_ = './dino_vit-mini-p8_1xb64-amp-coslr-12e_tiny-imagenet.py'
