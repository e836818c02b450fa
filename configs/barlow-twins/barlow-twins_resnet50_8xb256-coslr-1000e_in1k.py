# Barlow Twins (https://arxiv.org/abs/2103.03230): ResNet-50, 1000 epochs, batch 8 x 256, LARS with learning
# rate 0.2 x 2048 / 256, batch norm over all GPUs, lambda 0.0051. In the paper biases and batch norms have the
# learning rate 0.0048 x 2048 / 256; here all parameters have the same.
#
#   tools/dist_train.sh configs/barlow-twins/barlow-twins_resnet50_8xb256-coslr-1000e_in1k.py 8 --data DIR
#
# Expected, ImageNet-1k: the paper reports 73.2 top-1 by linear probing. Not measured here.
default_scope = 'mmpretrain'
_base_ = [
    '../_base_/datasets/images_byol_224.py',
    '../_base_/schedules/lars_mocov3.py',
    '../_base_/runtime.py',
]
model = dict(
    type='mmssl.BarlowTwins',
    backbone=dict(type='mmpretrain.ResNet', depth=50, zero_init_residual=True),
    neck=dict(type='mmssl.MLP', dims=(2048, 8192, 8192, 8192)),
    off_diagonal_weight=0.0051,
)
train_dataloader = dict(batch_size=256)
optim_wrapper = dict(optimizer=dict(lr=0.2 * 2048 / 256))
param_scheduler = dict(end=1000, eta_min=1.6e-3)
train_cfg = dict(max_epochs=1000)
sync_bn = 'torch'
auto_scale_lr = dict(base_batch_size=2048)
