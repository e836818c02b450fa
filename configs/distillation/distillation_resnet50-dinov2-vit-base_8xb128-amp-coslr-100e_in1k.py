# Feature distillation (https://arxiv.org/abs/2205.14141, with one linear projection for each teacher as in
# https://arxiv.org/abs/2312.06709) of DINOv2's ViT-B/14 into a ResNet-50, 100 epochs, bfloat16.
#
#   tools/dist_train.sh \
#       configs/distillation/distillation_resnet50-dinov2-vit-base_8xb128-amp-coslr-100e_in1k.py 8 --data DIR
#
# DIR is any folder of images. The teacher's weights are downloaded at the first run. 224 pixels give it 16x16
# patches, and the ResNet 7x7 positions, which are interpolated to 16x16.
# Expected: no figure, in the papers or here: they distil into vision transformers.
default_scope = 'mmpretrain'
_base_ = ['../_base_/datasets/images_mae_224.py', '../_base_/schedules/adamw_mae.py', '../_base_/runtime.py']
model = dict(
    type='mmssl.Distillation',
    backbone=dict(type='mmpretrain.ResNet', depth=50),
    teacher=dict(
        type='mmssl.ViT',
        arch='base',
        img_size=518,
        patch_size=14,
        layer_scale_init_value=1e-5,
        init_cfg=dict(type='Pretrained', checkpoint='timm://vit_base_patch14_dinov2.lvd142m'),
    ),
)
train_dataloader = dict(batch_size=128)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = dict(
    _delete_=True, type='mmssl.WarmupCosineLR', warmup=5, end=100, by_epoch=True, convert_to_iter_based=True
)
train_cfg = dict(max_epochs=100)
auto_scale_lr = dict(base_batch_size=1024)
