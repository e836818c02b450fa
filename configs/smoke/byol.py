# Ten iterations of a small BYOL on the generated demo data: well under a minute on a CPU; the tests run it.
#
#   python tools/train.py configs/smoke/byol.py
_base_ = '../_base_/smoke_resnet18.py'
model = dict(
    type='mmssl.BYOL',
    neck=dict(type='mmssl.MLP', dims=(128, 128, 32)),
    head=dict(type='mmssl.MLP', dims=(32, 128, 32)),
    momentum=0.9,
)
