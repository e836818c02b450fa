_base_ = './mocov2_resnet50_8xb32-coslr-800e_in1k.py'
