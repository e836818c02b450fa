# Segment Anything, https://arxiv.org/abs/2304.02643: all but the image encoder fine-tuned on the instances of
# COCO, ViT-B at 1024.
#
#   tools/dist_train.sh configs/sam/sam_vit-b-decoder_8xb4-amp-20000i_coco-1024.py 8 \
#       --data DIR --cfg-options load_from=FILE
#
# FILE is sam_vit_b_01ec64.pth of the released code, as it is. sam.pth in the work directory has the same
# names.
# Expected: no figure in the paper.
default_scope = 'mmpretrain'
_base_ = [
    '../_base_/models/sam_vit-b.py',
    '../_base_/datasets/coco_masks_1024.py',
    '../_base_/schedules/adamw_sam.py',
]
# with --cfg-options model.cache_dir=DIR embeddings are computed once and kept: 2 MB an image in float16; so
# no jitter and no flips
model = dict(tune='decoder')
train_pipeline = [
    dict(type='mmssl.LoadImage'),
    dict(type='mmssl.LoadMasks', max_masks=16),
    dict(type='mmssl.ResizeLongest', scale=1024),
    dict(type='mmssl.PackPrompts'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
auto_scale_lr = dict(base_batch_size=32)
