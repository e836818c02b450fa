_base_ = './mocov1_resnet50_8xb32-coslr-200e_in1k.py'
