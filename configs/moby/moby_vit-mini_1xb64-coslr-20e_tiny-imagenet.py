_base_ = './moby_vit-mini-p8_1xb64-amp-coslr-20e_tiny-imagenet.py'
