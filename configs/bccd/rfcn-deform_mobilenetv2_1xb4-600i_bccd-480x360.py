# Deformable Convolutional Networks, https://arxiv.org/abs/1703.06211: R-FCN with deformable pooling on
# MobileNetV2, BCCD.
#
#   python tools/train.py configs/bccd/rfcn-deform_mobilenetv2_1xb4-600i_bccd-480x360.py \
#       --data DIR --cfg-options load_from=BACKBONE
#
# One of the detectors compared on equal terms; BACKBONE is a MobileNetV2 trained on ImageNet, in mmpretrain's
# names.
# Expected: no figure in the paper.
default_scope = 'mmdet'
_base_ = './rfcn_mobilenetv2_1xb4-600i_bccd-480x360.py'
model = dict(
    roi_head=dict(
        bbox_head=dict(
            deformable=True,
            sample_per_part=2,
            init_cfg=dict(
                type='Normal',
                layer='Conv2d',
                std=0.01,
                override=[
                    dict(type='Xavier', name='conv_new', distribution='uniform'),
                    dict(type='Normal', name='rfcn_cls', std=0.1),
                    dict(type='Constant', name='rfcn_cls_offset', val=0),
                    dict(type='Constant', name='rfcn_bbox_offset', val=0),
                ],
            ),
        )
    )
)
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={
            'bbox_head.rfcn_cls_offset': dict(lr_mult=1.0),
            'bbox_head.rfcn_bbox_offset': dict(lr_mult=1.0),
        }
    )
)
