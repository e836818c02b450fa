_base_ = './mae_vit-micro-p8_1xb128-coslr-800i_demo.py'
