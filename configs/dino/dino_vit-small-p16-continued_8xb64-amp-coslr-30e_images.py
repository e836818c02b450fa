# DINO (https://arxiv.org/abs/2104.14294) that goes on from the released ViT-S/16 on one's own images: a new
# head, a quarter of the rate, layer decay, a slower teacher.
#
#   tools/dist_train.sh configs/dino/dino_vit-small-p16-continued_8xb64-amp-coslr-30e_images.py 8 --data DIR
#
# DIR is any folder of images. The weights are downloaded from timm's repository at the first run, or given by
# --cfg-options model.backbone.init_cfg.checkpoint=FILE. With model.backbone.lora_cfg.rank=16 only low-rank
# updates are trained.
# Expected: no figure; not measured here.
_base_ = './dino_vit-small-p16_8xb64-amp-coslr-100e_in1k.py'
model = dict(
    backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='timm://vit_small_patch16_224.dino')),
    momentum=0.9995,
    warmup_teacher_temp_epochs=0,
)
optim_wrapper = dict(optimizer=dict(lr=5e-4 * 512 / 256 / 4), paramwise_cfg=dict(layer_decay_rate=0.9))
param_scheduler = [
    dict(
        type='mmssl.WarmupCosineLR', warmup=2, end=30, eta_min=1e-6, by_epoch=True, convert_to_iter_based=True
    ),
    dict(type='mmssl.CosineWeightDecay', final=0.4, end=30, by_epoch=True, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=30)
custom_hooks = _base_.custom_hooks + [
    dict(type='mmssl.FreezeBackboneHook', iters=500),
    dict(type='mmssl.FeatureQualityHook', interval=1000),
]
