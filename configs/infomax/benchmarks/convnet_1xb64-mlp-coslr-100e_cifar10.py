# The paper's classifier on Deep InfoMax's frozen encoder (https://arxiv.org/abs/1808.06670, section 4.1): one
# hidden layer of 200 units with dropout, on the dense layer. The paper does not give the schedule of the
# classifier; this one was chosen here.
#
#   python tools/train.py configs/infomax/benchmarks/convnet_1xb64-mlp-coslr-100e_cifar10.py --data DIR \
#       --cfg-options model.backbone.init_cfg.checkpoint=FILE
#
# Expected, CIFAR-10: 73.62 top-1 after DIM(L) with JSD, 75.57 with InfoNCE and 52.84 after DIM(G) in the
# paper (table 1). Not measured here.
_base_ = './convnet_1xb64-linear-coslr-100e_cifar10.py'
model = dict(
    head=dict(
        type='StackedLinearClsHead',
        mid_channels=[200],
        dropout_rate=0.1,
        norm_cfg=dict(type='BN1d'),
        init_cfg=None,
    )
)
