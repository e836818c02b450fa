# DINOv2: Learning Robust Visual Features without Supervision, https://arxiv.org/abs/2304.07193: ViT-L/16 on
# ImageNet-1k, 100 epochs of 1,250 iterations, batch 32 x 64, bfloat16; the recipe of the released code for
# ImageNet-1k.
#
#   tools/dist_train.sh configs/dinov2/dinov2_vit-large-p16_32xb64-amp-coslr-125000i_in1k.py 8 --data DIR
#
# DIR is any folder of images. The released weights were trained on 142 million images that were not
# published; to go on from them see docs/transfer.md.
# Expected, ImageNet-1k: the official repository reports 81.6 top-1 by k-NN and 82.9 by linear probing for
# this recipe. Not measured here.
default_scope = 'mmpretrain'
_base_ = ['../_base_/datasets/images_dino.py', '../_base_/schedules/adamw_dino.py', '../_base_/runtime.py']
model = dict(
    type='mmssl.DINOv2',
    backbone=dict(
        type='mmssl.DINOv2ViT',
        arch='l',
        img_size=224,
        patch_size=16,
        drop_path_rate=0.3,
        layer_scale_init_value=1e-5,
    ),
    head=dict(type='mmssl.DINOHead', out_dim=65536, hidden_dim=2048, bottleneck_dim=256),
    num_crops=10,
    warmup_teacher_temp=0.04,
    teacher_temp=0.07,
    warmup_teacher_temp_epochs=30,
    momentum=0.992,
)
train_dataloader = dict(batch_size=64)
optim_wrapper = dict(optimizer=dict(lr=4e-3 * (2048 / 1024) ** 0.5))
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=125000)
param_scheduler = [
    dict(type='mmssl.WarmupCosineLR', warmup=12500, end=125000, eta_min=1e-6, by_epoch=False),
    dict(type='mmssl.CosineWeightDecay', final=0.4, end=125000, by_epoch=False),
]
auto_scale_lr = dict(base_batch_size=2048)
