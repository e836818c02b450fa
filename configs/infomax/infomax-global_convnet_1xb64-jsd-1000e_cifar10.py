# Deep InfoMax (https://arxiv.org/abs/1808.06670), DIM(G): mutual information between the vector and the whole
# last map (alpha 1), and a prior that makes the vector resemble uniform noise (gamma 1); see
# infomax-local_convnet_1xb64-jsd-1000e_cifar10.py.
#
#   python tools/train.py configs/infomax/infomax-global_convnet_1xb64-jsd-1000e_cifar10.py --data DIR
#
# Expected, CIFAR-10: 52.2 top-1 on the last map, 52.84 on the dense layer and 43.17 on the vector in the
# paper (table 1). Not measured here.
_base_ = './infomax-local_convnet_1xb64-jsd-1000e_cifar10.py'
model = dict(alpha=1.0, beta=0.0, gamma=1.0, global_index=2, global_channels=256 * 4 * 4)
