_base_ = './moby_deit-small-p16_8xb64-amp-coslr-300e_in1k.py'
