# MoCo v1 (https://arxiv.org/abs/1911.05722) with the cosine schedule of v2
# (https://arxiv.org/abs/2003.04297): ResNet-50, 200 epochs. Not the paper's schedule, which is
# mocov1_resnet50_8xb32-steplr-200e_in1k.py; for comparing v1's head, temperature and views with v2's.
#
#   tools/dist_train.sh configs/moco/mocov1_resnet50_8xb32-coslr-200e_in1k.py 8 --data DIR
#
# Expected, ImageNet-1k: no figure is published for v1 with this schedule; the paper reports 60.6 top-1 by
# linear probing with its own. Not measured here.
_base_ = './mocov1_resnet50_8xb32-steplr-200e_in1k.py'
param_scheduler = dict(_delete_=True, type='mmssl.WarmupCosineLR', warmup=0, end=200, by_epoch=True)
