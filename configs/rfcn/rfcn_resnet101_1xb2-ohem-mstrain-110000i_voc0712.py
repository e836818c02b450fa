# R-FCN, https://arxiv.org/abs/1605.06409: ResNet-101, hard examples, five sizes of images, VOC.
#
#   python tools/train.py configs/rfcn/rfcn_resnet101_1xb2-ohem-mstrain-110000i_voc0712.py --data DIR
#   python tools/test.py configs/rfcn/rfcn_resnet101_1xb2-ohem-mstrain-110000i_voc0712.py CHECKPOINT \
#       --data DIR
#
# Expected: no figure in the released code. Not measured here.
default_scope = 'mmdet'
_base_ = [
    '../_base_/models/rfcn_resnet50.py',
    '../_base_/datasets/voc0712_600.py',
    '../_base_/schedules/sgd_det.py',
    '../_base_/det_runtime.py',
]
model = dict(
    backbone=dict(depth=101, init_cfg=dict(checkpoint='open-mmlab://detectron2/resnet101_caffe')),
    train_cfg=dict(rcnn=dict(ohem=128)),
)
train_pipeline = [
    dict(type='mmssl.LoadImage'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='RandomChoiceResize',
        scales=[(1333, 400), (1333, 500), (1333, 600), (1333, 700), (1333, 800)],
        keep_ratio=True,
    ),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
train_dataloader = dict(
    dataset=dict(
        datasets=[
            dict(
                type='VOCDataset',
                data_root='data/VOCdevkit',
                ann_file=f'{year}/ImageSets/Main/trainval.txt',
                data_prefix=dict(sub_data_root=f'{year}/'),
                filter_cfg=dict(filter_empty_gt=True, min_size=32),
                pipeline=train_pipeline,
            )
            for year in ('VOC2007', 'VOC2012')
        ]
    )
)
auto_scale_lr = dict(base_batch_size=2)
