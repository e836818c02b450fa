_base_ = './dino_vit-small-p16_16xb64-amp-coslr-300e_in1k.py'
