# Ten iterations of a small DINOv2 on the generated demo data: well under a minute on a CPU; the tests run it.
#
#   python tools/train.py configs/smoke/dinov2.py
_base_ = './dino.py'
model = dict(
    type='mmssl.DINOv2',
    backbone=dict(type='mmssl.DINOv2ViT'),
    warmup_teacher_temp_epochs=0,
)
