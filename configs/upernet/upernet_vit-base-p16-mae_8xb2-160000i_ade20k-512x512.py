# UPerNet (https://arxiv.org/abs/1807.10221) on a ViT-B that MAE pre-trained (https://arxiv.org/abs/2111.06377),
# ADE20K, 160000 iterations.
#
#   tools/dist_train.sh configs/upernet/upernet_vit-base-p16-mae_8xb2-160000i_ade20k-512x512.py 8 --data DIR \
#       --cfg-options model.backbone.init_cfg.checkpoint=MAE_CHECKPOINT
#
# MAE_CHECKPOINT: what tools/train.py configs/mae/mae_vit-base-p16_8xb512-amp-coslr-300e_in1k.py leaves, or a
# released file in any spelling.
# Expected: MAE's paper reports 48.1 mIoU with its weights of 1600 epochs. Not measured here.
_base_ = '../gcn/gcn_vit-b-mae_8xb2-160000i_ade20k-512x512.py'
model = dict(
    decode_head=dict(
        _delete_=True,
        type='UPerHead',
        in_channels=[768, 768, 768, 768],
        in_index=[0, 1, 2, 3],
        pool_scales=(1, 2, 3, 6),
        channels=768,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', avg_non_ignore=True, loss_weight=1.0),
    ),
    auxiliary_head=dict(
        type='FCNHead',
        in_channels=768,
        in_index=2,
        channels=256,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', avg_non_ignore=True, loss_weight=0.4),
    ),
)
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.65))
