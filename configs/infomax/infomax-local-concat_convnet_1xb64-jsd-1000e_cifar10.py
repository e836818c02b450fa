# Deep InfoMax (https://arxiv.org/abs/1808.06670): the local objective with the
# concatenate-and-convolve discriminator (appendix A.2) and JSD on images of the size of CIFAR's.
#
#   python tools/train.py configs/infomax/infomax-local-concat_convnet_1xb64-jsd-1000e_cifar10.py --data DIR
#
# DIR holds train/<class>/* and val/<class>/*.
# Expected: no figure in the paper for CIFAR-10 with this discriminator.
_base_ = './infomax-local_convnet_1xb64-jsd-1000e_cifar10.py'
model = dict(discriminator='concat')
