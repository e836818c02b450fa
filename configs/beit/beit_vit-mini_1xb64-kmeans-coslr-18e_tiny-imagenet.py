_base_ = './beit_vit-mini-p8_1xb64-kmeans-amp-coslr-18e_tiny-imagenet.py'
