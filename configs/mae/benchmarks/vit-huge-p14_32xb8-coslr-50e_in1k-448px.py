# Fine-tuning of an MAE ViT-H/14 at 448x448 (https://arxiv.org/abs/2111.06377, table 3): the recipe at 224,
# larger images; the position table is resized as it is loaded. Batch 32 x 8, learning rate by the same rule.
#
#   GPUS=32 tools/slurm_train.sh PARTITION JOB \
#       configs/mae/benchmarks/vit-huge-p14_32xb8-coslr-50e_in1k-448px.py --data DIR \
#       --cfg-options model.backbone.init_cfg.checkpoint=FILE
#
# Expected, ImageNet-1k: the paper reports 87.8 top-1 from 1600 epochs of pre-training. Not measured here.
_base_ = './vit-huge-p14_8xb128-coslr-50e_in1k.py'
model = dict(backbone=dict(img_size=448))
train_pipeline = _base_.train_pipeline
train_pipeline[0].update(scale=448)
test_pipeline = [
    dict(type='mmssl.LoadCenterCrop', scale=448, ratio=1.0, interpolation='bicubic'),
    dict(type='PackInputs'),
]
train_dataloader = dict(batch_size=8, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=8, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
optim_wrapper = dict(optimizer=dict(lr=1e-3 * 256 / 256))
auto_scale_lr = dict(base_batch_size=256)
