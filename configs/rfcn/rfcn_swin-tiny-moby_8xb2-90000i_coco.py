# R-FCN, https://arxiv.org/abs/1605.06409, on a Swin-T that MoBY pre-trained: the RPN reads its third stage,
# of stride 16, the position-sensitive maps its fourth, of stride 32. COCO, 90000 iterations.
#
#   tools/dist_train.sh configs/rfcn/rfcn_swin-tiny-moby_8xb2-90000i_coco.py 8 --data DIR \
#       --cfg-options model.backbone.init_cfg.checkpoint=MOBY_CHECKPOINT
#
# Expected: no figure in either paper. Not measured here.
_base_ = './rfcn_vit-base-p16-mae_8xb2-90000i_coco.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpretrain.SwinTransformer',
        arch='tiny',
        out_indices=(2, 3),
        drop_path_rate=0.2,
        pad_small_map=True,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/moby_swin-tiny_8xb64-amp-coslr-300e_in1k/epoch_300.pth',
            prefix='backbone.',
        ),
    ),
    rpn_head=dict(in_channels=384),
    roi_head=dict(bbox_head=dict(in_channels=768, stride=32)),
)
optim_wrapper = dict(
    optimizer=dict(weight_decay=0.05), paramwise_cfg=dict(_delete_=True, norm_decay_mult=0.0)
)
