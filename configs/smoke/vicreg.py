# Ten iterations of a small VICReg on the generated demo data: well under a minute on a CPU; the tests run it.
#
#   python tools/train.py configs/smoke/vicreg.py
_base_ = '../_base_/smoke_resnet18.py'
model = dict(
    type='mmssl.VICReg',
    neck=dict(type='mmssl.MLP', dims=(128, 128, 128, 64)),
)
