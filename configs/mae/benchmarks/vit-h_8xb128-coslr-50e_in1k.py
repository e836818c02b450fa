_base_ = './vit-huge-p14_8xb128-coslr-50e_in1k.py'
