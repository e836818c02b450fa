# Deep InfoMax (https://arxiv.org/abs/1808.06670), DIM(L) with InfoNCE on a ResNet-50: mutual information
# between the vector and every position of the third stage's 14x14 map. 8 GPUs, 200 epochs; the negatives come
# from each GPU alone (gather=True takes those of all).
#
#   tools/dist_train.sh configs/infomax/infomax-local_resnet50_8xb32-amp-infonce-200e_in1k.py 8 --data DIR
#
# Expected: no figure, the paper has no ResNet-50 on ImageNet. Not measured here.
default_scope = 'mmpretrain'
_base_ = [
    '../_base_/datasets/images_single_224.py',
    '../_base_/schedules/adam_infomax.py',
    '../_base_/runtime.py',
]
model = dict(
    type='mmssl.DeepInfoMax',
    backbone=dict(type='mmpretrain.ResNet', depth=50, out_indices=(2, 3), zero_init_residual=False),
    neck=dict(type='mmssl.MLP', dims=(2048, 64), bias=True),
    alpha=0.0,
    beta=1.0,
    gamma=0.1,
    estimator='InfoNCE',
    local_index=0,
    local_channels=1024,
    units=2048,
)
train_dataloader = dict(batch_size=32)
optim_wrapper = dict(type='mmssl.AmpOptimWrapper', dtype='bfloat16')
param_scheduler = dict(end=200)
train_cfg = dict(max_epochs=200)
default_hooks = dict(checkpoint=dict(interval=10))
auto_scale_lr = dict(base_batch_size=256)
