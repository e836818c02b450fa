# Segment Anything, https://arxiv.org/abs/2304.02643, section 7.4: boxes of a detector become instance masks;
# here of R-FCN, ResNet-50.
#
#   tools/dist_test.sh configs/sam/rfcn-sam_resnet50-vit-b_8xb1-ohem-234000i_coco.py CHECKPOINT 8 --data DIR \
#       --cfg-options model.sam_checkpoint=FILE
#   tools/dist_train.sh configs/sam/rfcn-sam_resnet50-vit-b_8xb1-ohem-234000i_coco.py 8 \
#       --data DIR --cfg-options model.sam_checkpoint=FILE
#
# CHECKPOINT is one of configs/rfcn/rfcn_resnet50_8xb1-ohem-234000i_coco.py, unchanged; FILE is
# sam_vit_b_01ec64.pth of the released code or a checkpoint trained here. Only the detector is trained, and
# any detector of mmdet can replace it.
# Expected: no figure in the paper for this detector. Not measured here.
default_scope = 'mmdet'
_base_ = '../rfcn/rfcn_resnet50_8xb1-ohem-234000i_coco.py'
model = dict(
    _delete_=True,
    type='mmssl.PromptedInstanceSegmentor',
    detector=_base_.model,
    sam=dict(type='mmssl.SAM', image_encoder=dict(type='mmssl.SAMImageEncoder', arch='vit_b')),
)
val_evaluator = dict(metric=['bbox', 'segm'])
test_evaluator = val_evaluator
