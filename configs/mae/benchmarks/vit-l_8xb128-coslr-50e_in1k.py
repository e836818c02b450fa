_base_ = './vit-large-p16_8xb128-coslr-50e_in1k.py'
