_base_ = './vit-huge-p14_8xb2048-linear-coslr-90e_in1k.py'
