# Deep InfoMax (https://arxiv.org/abs/1808.06670): the local objective with JSD, squares of
# 16 pixels occluded for the vector, and coordinates predicted (section 4.4), on images of 32x32.
#
#   python tools/train.py \
#       configs/infomax/infomax-local-coordinates_convnet_1xb64-jsd-1000e_cifar10.py --data DIR
#
# DIR holds train/<class>/* and val/<class>/*.
# Expected: no figure in the paper for exactly these settings.
_base_ = './infomax-local_convnet_1xb64-jsd-1000e_cifar10.py'
model = dict(occlusion=16, coordinates=1.0)
