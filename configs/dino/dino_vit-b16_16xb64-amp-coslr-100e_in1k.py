_base_ = './dino_vit-base-p16_16xb64-amp-coslr-100e_in1k.py'
