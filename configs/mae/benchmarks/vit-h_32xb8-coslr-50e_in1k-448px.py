_base_ = './vit-huge-p14_32xb8-coslr-50e_in1k-448px.py'
