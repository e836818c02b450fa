# DINOv2 (https://arxiv.org/abs/2304.07193) that goes on from the released ViT-B/14 on one's own images: new
# heads, a low rate, layer decay, a slow teacher.
#
#   tools/dist_train.sh configs/dinov2/dinov2_vit-base-p14-continued_8xb32-amp-coslr-10000i_images.py \
#       8 --data DIR
#
# DIR is any folder of images. The weights are downloaded from timm's repository at the first run, or given by
# --cfg-options model.backbone.init_cfg.checkpoint=FILE; their licence is Apache-2.0. With
# model.backbone.lora_cfg.rank=16 only low-rank updates are trained. For a last phase at 518 pixels raise
# img_size and the sizes of the views (DINOv2, section 4, 'Adapting the resolution').
# Expected: no figure; not measured here.
_base_ = './dinov2_vit-large-p16_32xb64-amp-coslr-125000i_in1k.py'
model = dict(
    backbone=dict(
        arch='b',
        patch_size=14,
        drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint='timm://vit_base_patch14_dinov2.lvd142m'),
    ),
    warmup_teacher_temp_epochs=0,
    momentum=0.999,
)
train_dataloader = dict(batch_size=32)
optim_wrapper = dict(optimizer=dict(lr=1e-4), paramwise_cfg=dict(layer_decay_rate=0.9))
train_cfg = dict(max_iters=10000)
param_scheduler = [
    dict(type='mmssl.WarmupCosineLR', warmup=1000, end=10000, eta_min=1e-6, by_epoch=False),
    dict(type='mmssl.CosineWeightDecay', final=0.2, end=10000, by_epoch=False),
]
custom_hooks = _base_.custom_hooks + [
    dict(type='mmssl.FreezeBackboneHook', iters=500),
    dict(type='mmssl.FeatureQualityHook', interval=1000),
]
auto_scale_lr = dict(base_batch_size=256)
