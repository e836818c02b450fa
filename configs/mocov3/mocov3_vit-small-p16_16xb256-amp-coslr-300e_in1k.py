# MoCo v3 (https://arxiv.org/abs/2104.02057): ViT-S/16 with twelve heads, 300 epochs, batch 16 x 256; the
# patch projection is frozen.
#
#   GPUS=16 tools/slurm_train.sh PARTITION JOB \
#       configs/mocov3/mocov3_vit-small-p16_16xb256-amp-coslr-300e_in1k.py --data DIR
#
# Expected, ImageNet-1k: the official repository reports 73.2 top-1 by linear probing and 81.4 after
# fine-tuning, mmpretrain 73.6 by linear probing. Not measured here.
default_scope = 'mmpretrain'
_base_ = [
    '../_base_/datasets/images_moco-v3_224.py',
    '../_base_/schedules/adamw_mocov3.py',
    '../_base_/runtime.py',
]
model = dict(
    type='mmssl.MoCoV3',
    backbone=dict(type='mmssl.MoCoV3ViT', arch='small', img_size=224, patch_size=16, stop_grad_conv1=True),
    neck=dict(type='mmssl.MLP', dims=(384, 4096, 4096, 256), last_bn=True),
    head=dict(
        type='mmssl.MoCoV3Head',
        predictor=dict(type='mmssl.MLP', dims=(256, 4096, 256), last_bn=True),
        temperature=0.2,
    ),
    momentum=0.99,
)
train_dataloader = dict(batch_size=256)
sync_bn = 'torch'
