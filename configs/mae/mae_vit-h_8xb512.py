_base_ = './mae_vit-huge-p14_8xb512-amp-coslr-300e_in1k.py'
