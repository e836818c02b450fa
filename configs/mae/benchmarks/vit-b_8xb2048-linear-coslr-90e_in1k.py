_base_ = './vit-base-p16_8xb2048-linear-coslr-90e_in1k.py'
