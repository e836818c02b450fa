# DINOv2 (https://arxiv.org/abs/2304.07193), section 4, 'Adapting the resolution': a short last phase on large
# images, which small objects need in segmentation and detection; ViT-L/16, global crops of 512 pixels, local
# ones of 224, 10,000 iterations, bfloat16. Schedules as in the first phase, compressed; a tenth of its rate.
#
#   tools/dist_train.sh configs/dinov2/dinov2_vit-large-p16-512px_32xb16-amp-coslr-10000i_in1k.py 8 \
#       --data DIR --cfg-options load_from=FILE
#
# FILE is the last checkpoint of dinov2_vit-large-p16_32xb64-amp-coslr-125000i_in1k.py. Its position table is
# resized. With model.gram_weight=2.0 the patches keep the similarities that they have in FILE (Gram
# anchoring, https://arxiv.org/abs/2508.10104, section 4.2).
# Expected: no figure in the paper for this ViT-L. Not measured here.
_base_ = './dinov2_vit-large-p16_32xb64-amp-coslr-125000i_in1k.py'
model = dict(backbone=dict(img_size=512), warmup_teacher_temp_epochs=1)
train_pipeline = [
    dict(type='mmssl.LoadViews', preset='dino', scale=512, local_scale=224, num_local=8),
    dict(type='PackInputs'),
]
train_dataloader = dict(batch_size=16, dataset=dict(pipeline=train_pipeline))
optim_wrapper = dict(optimizer=dict(lr=4e-4 * (512 / 1024) ** 0.5))
train_cfg = dict(max_iters=10000)
param_scheduler = [
    dict(type='mmssl.WarmupCosineLR', warmup=1000, end=10000, eta_min=1e-6, by_epoch=False),
    dict(type='mmssl.CosineWeightDecay', final=0.4, end=10000, by_epoch=False),
]
auto_scale_lr = dict(base_batch_size=512)
