_base_ = './deit-small-p16_8xb64-linear-coslr-100e_in1k.py'
