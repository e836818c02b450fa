_base_ = './mocov2_resnet18_1xb64-amp-coslr-15e_tiny-imagenet.py'
