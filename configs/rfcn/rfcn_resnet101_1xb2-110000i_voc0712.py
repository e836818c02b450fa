# R-FCN, https://arxiv.org/abs/1605.06409: ResNet-101, 128 random RoIs, VOC 2007 and 2012.
#
#   python tools/train.py configs/rfcn/rfcn_resnet101_1xb2-110000i_voc0712.py --data DIR
#   python tools/test.py configs/rfcn/rfcn_resnet101_1xb2-110000i_voc0712.py CHECKPOINT --data DIR
#
# Expected: no figure in the released code, whose models learn from hard examples. Not measured here.
default_scope = 'mmdet'
_base_ = [
    '../_base_/models/rfcn_resnet50.py',
    '../_base_/datasets/voc0712_600.py',
    '../_base_/schedules/sgd_det.py',
    '../_base_/det_runtime.py',
]
model = dict(
    backbone=dict(depth=101, init_cfg=dict(checkpoint='open-mmlab://detectron2/resnet101_caffe')),
    train_cfg=dict(
        rcnn=dict(
            sampler=dict(
                type='RandomSampler', num=128, pos_fraction=0.25, neg_pos_ub=-1, add_gt_as_proposals=True
            )
        )
    ),
)
auto_scale_lr = dict(base_batch_size=2)
