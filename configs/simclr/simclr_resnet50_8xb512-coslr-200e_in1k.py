# SimCLR (https://arxiv.org/abs/2002.05709): ResNet-50, 200 epochs, batch 8 x 512, LARS with learning rate
# 0.3 x 4096 / 256, batch norm over all GPUs, temperature 0.1.
#
#   tools/dist_train.sh configs/simclr/simclr_resnet50_8xb512-coslr-200e_in1k.py 8 --data DIR
#
# Expected, ImageNet-1k: mmpretrain reports 66.9 top-1 by linear probing for 200 epochs; the paper 69.3 for
# 1000. Not measured here.
default_scope = 'mmpretrain'
_base_ = [
    '../_base_/datasets/images_byol_224.py',
    '../_base_/schedules/lars_mocov3.py',
    '../_base_/runtime.py',
]
model = dict(
    type='mmssl.SimCLR',
    backbone=dict(type='mmpretrain.ResNet', depth=50, zero_init_residual=True),
    neck=dict(type='mmssl.MLP', dims=(2048, 2048, 128), last_bn=True),
    temperature=0.1,
)
# a random crop of 8 to 100 % of the area, flip, colour jitter of strength 1.0, grey, blur (appendix A)
train_pipeline = [
    dict(type='mmssl.LoadViews', preset='simclr', scale=224),
    dict(type='PackInputs'),
]
train_dataloader = dict(batch_size=512, dataset=dict(pipeline=train_pipeline))
optim_wrapper = dict(optimizer=dict(lr=0.3 * 4096 / 256))
param_scheduler = dict(end=200)
train_cfg = dict(max_epochs=200)
sync_bn = 'torch'
