# Exploring Plain Vision Transformer Backbones for Object Detection, https://arxiv.org/abs/2203.16527:
# Mask R-CNN on a ViT-B that MAE pre-trained, COCO, 184375 iterations of 64 images (100 epochs), large-scale
# jitter at 1024.
#
#   tools/dist_train.sh configs/vitdet/mask-rcnn_vit-base-p16-mae_64xb1-184375i_coco-1024.py 64 --data DIR \
#       --cfg-options model.backbone.init_cfg.checkpoint=MAE_CHECKPOINT
#
# MAE_CHECKPOINT: what tools/train.py configs/mae/mae_vit-base-p16_8xb512-amp-coslr-300e_in1k.py leaves, or a
# released file in any spelling. model.backbone.with_cp=True saves memory.
# Expected, COCO val2017: the paper reports 51.6 box AP and 45.9 mask AP with MAE's weights of 1600 epochs.
# Not measured here.
default_scope = 'mmdet'
_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    '../_base_/datasets/coco_instances_1024.py',
    '../_base_/det_runtime.py',
]
model = dict(
    data_preprocessor=dict(type='mmssl.DetDataPreprocessor', pad_size_divisor=32),
    backbone=dict(
        _delete_=True,
        type='mmssl.ViTDet',
        arch='base',
        img_size=1024,
        patch_size=16,
        window_size=14,
        global_indices=(2, 5, 8, 11),
        drop_path_rate=0.1,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/mae_vit-base-p16_8xb512-amp-coslr-300e_in1k/epoch_300.pth',
            prefix='backbone.',
        ),
    ),
    neck=dict(
        _delete_=True, type='mmssl.SimpleFeaturePyramid', in_channels=768, out_channels=256, num_outs=5
    ),
    rpn_head=dict(num_convs=2),
    roi_head=dict(bbox_head=dict(type='Shared4Conv1FCBBoxHead', norm_cfg=dict(type='GN', num_groups=32))),
)
train_dataloader = dict(batch_size=1)
optim_wrapper = dict(
    type='mmssl.AmpOptimWrapper',
    dtype='bfloat16',
    constructor='mmssl.MergedOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.1),
    paramwise_cfg=dict(
        layer_decay_rate=0.7,
        flat_decay_mult=0.0,
        custom_keys=dict(rel_pos=dict(decay_mult=0.0), pos_embed=dict(decay_mult=0.0)),
    ),
)
train_cfg = dict(type='IterBasedTrainLoop', max_iters=184375, val_interval=10000)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, begin=0, end=250, by_epoch=False),
    dict(type='MultiStepLR', begin=0, end=184375, by_epoch=False, milestones=[163889, 177546], gamma=0.1),
]
auto_scale_lr = dict(base_batch_size=64)
