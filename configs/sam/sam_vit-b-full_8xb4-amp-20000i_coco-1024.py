# Segment Anything, https://arxiv.org/abs/2304.02643: all of it fine-tuned on the instances of COCO, ViT-B at
# 1024.
#
#   tools/dist_train.sh configs/sam/sam_vit-b-full_8xb4-amp-20000i_coco-1024.py 8 --data DIR \
#       --cfg-options load_from=FILE
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
model = dict(model=dict(image_encoder=dict(drop_path_rate=0.1)))
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.8))
auto_scale_lr = dict(base_batch_size=32)
