_base_ = './mae_vit-large-p16_8xb512-amp-coslr-800e_in1k.py'
