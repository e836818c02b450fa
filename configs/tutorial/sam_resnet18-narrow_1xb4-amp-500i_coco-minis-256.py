# Segment Anything, https://arxiv.org/abs/2304.02643, the last step of docs/tutorial.md: a small one whose
# encoder is the backbone that the first step pre-trained.
#
#   python tools/train.py configs/tutorial/sam_resnet18-narrow_1xb4-amp-500i_coco-minis-256.py --data DIR
#
# From random weights: --cfg-options model.model.image_encoder.backbone.init_cfg=None.
# DIR holds coco_mini and coco_light. Nothing is frozen; all of the backbone learns at the full rate.
# Expected: see docs/results/transfer.md, measured here.
_base_ = '../sam/sam_mobilenetv2_1xb4-amp-1400i_coco-minis-256.py'
pretrained = 'work_dirs/pretrain_moco-v2_resnet18-narrow_1xb64-coslr-40e_pool/epoch_40.pth'
model = dict(
    model=dict(
        image_encoder=dict(
            backbone=dict(
                _delete_=True,
                type='ResNet',
                depth=18,
                stem_channels=32,
                base_channels=32,
                out_indices=(1, 2, 3),
                init_cfg=dict(type='Pretrained', checkpoint=pretrained, prefix='backbone'),
            ),
            in_channels=(64, 128, 256),
        )
    )
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'image_encoder.backbone': dict(lr_mult=1.0)}))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=30, by_epoch=False),
    dict(type='CosineAnnealingLR', eta_min=8e-6, begin=30, end=500, by_epoch=False),
]
train_cfg = dict(max_iters=500, val_interval=500)
default_hooks = dict(checkpoint=dict(interval=500))
