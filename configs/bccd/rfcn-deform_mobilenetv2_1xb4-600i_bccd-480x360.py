# Deformable Convolutional Networks, https://arxiv.org/abs/1703.06211: R-FCN with deformable pooling on MobileNetV2, BCCD.
#
#   python tools/train.py configs/bccd/rfcn-deform_mobilenetv2_1xb4-600i_bccd-480x360.py --data DIR --cfg-options load_from=BACKBONE
#
# One of the detectors compared on equal terms; BACKBONE is a MobileNetV2 trained on ImageNet, in mmpretrain's names.
# Expected: no figure in the paper.
default_scope = 'mmdet'
_base_ = [
    '../_base_/models/bccd_mobilenetv2.py', '../_base_/datasets/bccd_360x480.py', '../_base_/schedules/sgd_det_bccd.py',
    '../_base_/det_runtime.py'
]
model = dict(
    type='mmssl.RFCN',
    roi_head=dict(
        type='mmssl.RFCNRoIHead',
        bbox_head=dict(
            type='mmssl.RFCNBBoxHead',
            in_channels=320,
            num_classes=3,
            deformable=True,
            sample_per_part=2,
            init_cfg=dict(type='Normal', layer='Conv2d', std=0.01, override=[
                dict(type='Xavier', name='conv_new', distribution='uniform'),
                dict(type='Constant', name='rfcn_cls_offset', val=0),
                dict(type='Constant', name='rfcn_bbox_offset', val=0)]))),
    train_cfg=dict(rcnn=dict(ohem=128)))
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=300))
auto_scale_lr = dict(base_batch_size=4)
