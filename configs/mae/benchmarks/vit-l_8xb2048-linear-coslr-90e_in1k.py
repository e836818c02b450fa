_base_ = './vit-large-p16_8xb2048-linear-coslr-90e_in1k.py'
