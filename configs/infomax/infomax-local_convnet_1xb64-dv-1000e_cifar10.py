# Deep InfoMax (https://arxiv.org/abs/1808.06670), DIM(L) with the Donsker-Varadhan estimator; see
# infomax-local_convnet_1xb64-jsd-1000e_cifar10.py.
#
#   python tools/train.py configs/infomax/infomax-local_convnet_1xb64-dv-1000e_cifar10.py --data DIR
#
# Expected: no figure at hand; the paper finds this estimator less stable than the other two (section 3.1).
# Not measured here.
_base_ = './infomax-local_convnet_1xb64-jsd-1000e_cifar10.py'
model = dict(estimator='DV')
