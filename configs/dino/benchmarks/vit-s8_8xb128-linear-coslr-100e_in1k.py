_base_ = './vit-small-p8_8xb128-linear-coslr-100e_in1k.py'
