_base_ = './dino_vit-small-p16_8xb64-amp-coslr-100e_in1k.py'
