# Linear probing of a Deep InfoMax ResNet-50 (https://arxiv.org/abs/1808.06670) by the recipe of MoCo: the
# backbone is frozen, its batch norms too; a linear layer on the averaged features. Minutes instead of hours,
# with nearly the same answer: `mmssl linear`.
#
#   tools/dist_train.sh configs/infomax/benchmarks/resnet50_8xb32-linear-steplr-100e_in1k.py 8 --data DIR \
#       --cfg-options model.backbone.init_cfg.checkpoint=FILE
#
# Expected: no figure, the paper has no ResNet-50 on ImageNet. Not measured here.
_base_ = '../../moco/benchmarks/resnet50_8xb32-linear-steplr-100e_in1k.py'
