# Deep InfoMax (https://arxiv.org/abs/1808.06670), DIM(L) with the InfoNCE estimator; see
# infomax-local_convnet_1xb64-jsd-1000e_cifar10.py.
#
#   python tools/train.py configs/infomax/infomax-local_convnet_1xb64-infonce-1000e_cifar10.py --data DIR
#
# Expected, CIFAR-10: 75.21 top-1 on the last map, 75.57 on the dense layer and 69.13 on the vector in the
# paper (table 1). Not measured here.
_base_ = './infomax-local_convnet_1xb64-jsd-1000e_cifar10.py'
model = dict(estimator='InfoNCE')
