# MAE (https://arxiv.org/abs/2111.06377) that goes on from the released ViT-B/16 on one's own images: a new
# decoder, a quarter of the rate, layer decay.
#
#   tools/dist_train.sh configs/mae/mae_vit-base-p16-continued_8xb512-amp-coslr-50e_images.py 8 --data DIR
#
# DIR is any folder of images. The weights are downloaded from timm's repository at the first run, or given by
# --cfg-options model.backbone.init_cfg.checkpoint=FILE; their licence is CC BY-NC 4.0. With
# model.backbone.lora_cfg.rank=16 only low-rank updates are trained.
# Expected: no figure; not measured here.
_base_ = './mae_vit-base-p16_8xb512-amp-coslr-300e_in1k.py'
model = dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='timm://vit_base_patch16_224.mae')))
optim_wrapper = dict(optimizer=dict(lr=1.5e-4 * 4096 / 256 / 4), paramwise_cfg=dict(layer_decay_rate=0.9))
param_scheduler = dict(warmup=2, end=50)
train_cfg = dict(max_epochs=50)
custom_hooks = _base_.custom_hooks + [
    dict(type='mmssl.FreezeBackboneHook', iters=500),
    dict(type='mmssl.FeatureQualityHook', interval=1000),
]
