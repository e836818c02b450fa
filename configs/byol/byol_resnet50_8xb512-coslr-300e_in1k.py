# BYOL (https://arxiv.org/abs/2006.07733): ResNet-50, 300 epochs, batch 8 x 512, LARS with learning rate
# 0.3 x 4096 / 256, batch norm over all GPUs, momentum from 0.99 to 1.
#
#   tools/dist_train.sh configs/byol/byol_resnet50_8xb512-coslr-300e_in1k.py 8 --data DIR
#
# Expected, ImageNet-1k: the paper reports 72.5 top-1 by linear probing for 300 epochs (its ablations), 74.3
# for 1000. Not measured here.
default_scope = 'mmpretrain'
_base_ = [
    '../_base_/datasets/images_byol_224.py',
    '../_base_/schedules/lars_mocov3.py',
    '../_base_/runtime.py',
]
model = dict(
    type='mmssl.BYOL',
    backbone=dict(type='mmpretrain.ResNet', depth=50, zero_init_residual=True),
    neck=dict(type='mmssl.MLP', dims=(2048, 4096, 256)),
    head=dict(type='mmssl.MLP', dims=(256, 4096, 256)),
    momentum=0.99,  # 0.996 for 1000 epochs
)
train_dataloader = dict(batch_size=512)
optim_wrapper = dict(optimizer=dict(lr=0.3 * 4096 / 256))
param_scheduler = dict(end=300)
train_cfg = dict(max_epochs=300)
sync_bn = 'torch'
