_base_ = './mocov2_resnet50_8xb32-coslr-200e_in1k.py'
