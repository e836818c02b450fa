# Ten iterations of a small iBOT on the generated demo data: well under a minute on a CPU; the tests run it.
#
#   python tools/train.py configs/smoke/ibot.py
_base_ = './dino.py'
model = dict(type='mmssl.IBOT', backbone=dict(type='mmssl.DINOv2ViT'))
