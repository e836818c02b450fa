# Segment Anything, https://arxiv.org/abs/2304.02643: a small one on MobileNetV2, the instances of two small
# parts of COCO.
#
#   python tools/train.py configs/sam/sam_mobilenetv2_1xb4-amp-1400i_coco-minis-256.py \
#       --data DIR --cfg-options load_from=BACKBONE
#
# DIR holds coco_mini and coco_light; BACKBONE is a MobileNetV2 trained on ImageNet, in mmpretrain's names
# (mmssl convert mobilenetv2). One map of stride 16, 128 channels, three rounds of six masks an image; 1-click
# mIoU and on at the size of the files. With the paper's 20 to 1 of focal and dice loss a decoder that starts
# from nothing learns for hundreds of iterations to predict no pixel at all.
# Expected: no figure in the paper.
default_scope = 'mmpretrain'
_base_ = ['../_base_/datasets/coco_masks_mini_256.py', '../_base_/schedules/adamw_sam_mini.py']
data_preprocessor = dict(
    type='mmssl.ImgDataPreprocessor',
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    bgr_to_rgb=True,
    pad_size_divisor=256,
)
model = dict(
    type='mmssl.InteractiveSAM',
    data_preprocessor=data_preprocessor,
    losses=dict(focal_weight=1.0, alpha=-1.0),
    rounds=3,
    silent_rounds=0,
    max_masks=6,
    ambiguous=('point',),
    clicks=dict(clicks=5),
    model=dict(
        type='mmssl.SAM',
        image_encoder=dict(
            type='mmssl.SAMBackbone',
            backbone=dict(type='MobileNetV2', out_indices=(2, 4, 6), norm_eval=True),
            in_channels=(32, 96, 320),
            out_chans=128,
            img_size=256,
            stride=16,
        ),
        mask_decoder=dict(transformer=dict(mlp_dim=512), iou_head_hidden_dim=128),
    ),
)
auto_scale_lr = dict(base_batch_size=4)
