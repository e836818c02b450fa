# iBOT: Image BERT Pre-Training with Online Tokenizer, https://arxiv.org/abs/2111.07832: ViT-S/16, two global
# and ten local crops, 800 epochs, bfloat16.
#
#   NNODES=2 tools/dist_train.sh configs/ibot/ibot_vit-small-p16_16xb64-amp-coslr-800e_in1k.py 8 --data DIR
#
# DIR is any folder of images.
# Expected, ImageNet-1k: the official repository reports 75.2 top-1 by k-NN and 77.9 by linear probing. Not
# measured here.
_base_ = '../dino/dino_vit-small-p16_8xb64-amp-coslr-100e_in1k.py'
model = dict(
    type='mmssl.IBOT',
    backbone=dict(type='mmssl.DINOv2ViT'),
    head=dict(out_dim=8192, norm_last_layer=False),
    num_crops=12,
    teacher_temp=0.07,
    warmup_teacher_temp_epochs=30,
)
train_pipeline = [
    dict(
        type='mmssl.LoadViews',
        preset='dino',
        scale=224,
        local_scale=96,
        num_local=10,
        crop_ratio_range=(0.25, 1.0),
        local_crop_ratio_range=(0.05, 0.25),
    ),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
optim_wrapper = dict(optimizer=dict(lr=5e-4 * 1024 / 256))
param_scheduler = [
    dict(
        type='mmssl.WarmupCosineLR',
        warmup=10,
        end=800,
        eta_min=1e-6,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
    dict(type='mmssl.CosineWeightDecay', final=0.4, end=800, by_epoch=True, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=800)
auto_scale_lr = dict(base_batch_size=1024)
