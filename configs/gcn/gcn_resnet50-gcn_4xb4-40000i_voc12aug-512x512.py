# Large Kernel Matters, https://arxiv.org/abs/1703.02719: GCN on ResNet-50-GCN, whose bottlenecks hold global
# convolutions, VOC 2012.
#
#   tools/dist_train.sh configs/gcn/gcn_resnet50-gcn_4xb4-40000i_voc12aug-512x512.py 4 --data DIR
#
# The paper trains ResNet-GCN on ImageNet first; the weights of a plain ResNet-50 that are loaded here fit all
# of it but the new kernels.
# Expected: section 4.3 of the paper compares it with ResNet-50, and has no figure for this schedule. Not
# measured here.
default_scope = 'mmseg'
_base_ = './gcn_resnet50_4xb4-40000i_voc12aug-512x512.py'
model = dict(backbone=dict(type='mmssl.GCNResNet', kernel_size=5))
