# R-FCN, https://arxiv.org/abs/1605.06409, the second step of docs/tutorial.md: blood cells, on the
# backbone that the first step pre-trained.
#
#   python tools/train.py configs/tutorial/rfcn_resnet18-narrow_1xb4-300i_bccd-320x240.py --data DIR
#
# From random weights: --cfg-options model.backbone.init_cfg=None.
# DIR holds BCCD: JPEGImages, Annotations, ImageSets/Main. Nothing is frozen and all of the backbone learns at
# the full rate.
# Expected: see docs/results/transfer.md, measured here.
_base_ = '../bccd/rfcn_mobilenetv2_1xb4-600i_bccd-480x360.py'
pretrained = 'work_dirs/pretrain_moco-v2_resnet18-narrow_1xb64-coslr-40e_pool/epoch_40.pth'
model = dict(
    backbone=dict(
        _delete_=True,
        type='ResNet',
        depth=18,
        stem_channels=32,
        base_channels=32,
        strides=(1, 2, 2, 1),
        dilations=(1, 1, 1, 2),
        out_indices=(2, 3),
        norm_eval=False,
        init_cfg=dict(type='Pretrained', checkpoint=pretrained, prefix='backbone'),
    ),
    rpn_head=dict(in_channels=128, anchor_generator=dict(scales=[1, 2, 4, 8])),
    roi_head=dict(bbox_head=dict(in_channels=256)),
)
train_pipeline = [
    dict(step, scale=(320, 240)) if step['type'] == 'Resize' else step for step in _base_.train_pipeline
]
test_pipeline = [
    dict(step, scale=(320, 240)) if step['type'] == 'Resize' else step for step in _base_.test_pipeline
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(_delete_=True, roi_head=dict(lr_mult=3.0))))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, begin=0, end=20, by_epoch=False),
    dict(type='CosineAnnealingLR', eta_min=0, begin=20, end=300, by_epoch=False),
]
train_cfg = dict(max_iters=300, val_interval=300)
