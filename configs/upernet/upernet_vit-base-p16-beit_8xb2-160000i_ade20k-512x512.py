# UPerNet (https://arxiv.org/abs/1807.10221) on a ViT-B that BEiT pre-trained (https://arxiv.org/abs/2106.08254),
# ADE20K, 160000 iterations.
#
#   tools/dist_train.sh configs/upernet/upernet_vit-base-p16-beit_8xb2-160000i_ade20k-512x512.py 8 \
#       --data DIR --cfg-options model.backbone.init_cfg.checkpoint=BEIT_CHECKPOINT
#
# BEIT_CHECKPOINT: what tools/train.py configs/beit/beit_vit-base-p16_8xb256-amp-coslr-300e_in1k.py leaves.
# Expected: BEiT's paper reports 45.6 mIoU with its weights of 800 epochs. Not measured here.
_base_ = './upernet_vit-base-p16-mae_8xb2-160000i_ade20k-512x512.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmssl.BEiTViT',
        arch='base',
        img_size=512,
        patch_size=16,
        out_indices=(3, 5, 7, 11),
        out_type='featmap',
        final_norm=False,
        drop_path_rate=0.1,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/beit_vit-base-p16_8xb256-amp-coslr-300e_in1k/epoch_300.pth',
            prefix='backbone.',
        ),
    ),
)
