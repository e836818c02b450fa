# Linear probing of a DINO ViT-B/16 (https://arxiv.org/abs/2104.14294, appendix F.2): a linear layer on the
# class token and the averaged patches of the last block; see vit-small-p16_8xb128-linear-coslr-100e_in1k.py.
#
#   tools/dist_train.sh configs/dino/benchmarks/vit-base-p16_8xb128-linear-coslr-100e_in1k.py 8 --data DIR \
#       --cfg-options model.backbone.init_cfg.checkpoint=FILE
#
# Expected, ImageNet-1k: the official repository reports 78.2 top-1 for its released ViT-B/16. Not measured
# here.
_base_ = './vit-small-p16_8xb128-linear-coslr-100e_in1k.py'
model = dict(backbone=dict(arch='b', num_cls_tokens=1, with_avg_patches=True), head=dict(in_channels=2 * 768))
