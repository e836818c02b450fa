# Unsupervised Learning of Visual Features by Contrasting Cluster Assignments,
# https://arxiv.org/abs/2006.09882: ResNet-50, 800 epochs, 2 crops of 224 and 6 of 96 pixels, batch 64 x 64.
#
#   GPUS=64 tools/slurm_train.sh PARTITION JOB \
#       configs/swav/swav_resnet50_64xb64-mcrop-coslr-800e_in1k-224px-96px.py --data DIR
#
# DIR is any folder of images. Expected, ImageNet-1k: the official repository reports 75.3 top-1 by linear
# probing. Not measured here.
default_scope = 'mmpretrain'
_base_ = ['../_base_/datasets/images_swav.py', '../_base_/schedules/larc_swav.py', '../_base_/runtime.py']
model = dict(
    type='mmssl.SwAV',
    backbone=dict(type='mmpretrain.ResNet', depth=50, norm_cfg=dict(type='BN'), zero_init_residual=True),
    neck=dict(type='mmssl.SwAVNeck', in_channels=2048, hid_channels=2048, out_channels=128),
    head=dict(
        type='mmssl.SwAVHead',
        in_channels=128,
        num_prototypes=3000,
        temperature=0.1,
        epsilon=0.05,
        iterations=3,
        crops_for_assign=(0, 1),
    ),
    freeze_prototypes=313,
)
train_dataloader = dict(batch_size=64)
