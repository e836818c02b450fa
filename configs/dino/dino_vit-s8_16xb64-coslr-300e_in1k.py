_base_ = './dino_vit-small-p8_16xb64-coslr-300e_in1k.py'
