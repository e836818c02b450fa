_base_ = './mae_vit-large-p16_8xb512-fsdp-amp-coslr-1600e_in1k.py'
