# Segment Anything, https://arxiv.org/abs/2304.02643: low-rank updates of the image encoder, COCO, ViT-B at
# 1024.
#
#   tools/dist_train.sh configs/sam/sam_vit-b-lora_8xb4-amp-20000i_coco-1024.py 8 --data DIR \
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
# 4.5 % of the parameters learn
model = dict(tune='lora', lora=dict(rank=4))
auto_scale_lr = dict(base_batch_size=32)
