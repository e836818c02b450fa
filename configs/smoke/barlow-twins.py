# Ten iterations of small Barlow Twins on the generated demo data: under a minute on a CPU; the tests run it.
#
#   python tools/train.py configs/smoke/barlow-twins.py
_base_ = '../_base_/smoke_resnet18.py'
model = dict(
    type='mmssl.BarlowTwins',
    neck=dict(type='mmssl.MLP', dims=(128, 128, 128, 64)),
)
