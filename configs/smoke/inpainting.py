# Ten iterations of inpainting on the generated demo data, CPU, well under a minute; the tests run it.
#
#   python tools/train.py configs/smoke/inpainting.py
_base_ = '../_base_/smoke_pretext.py'
model = dict(type='mmssl.Inpainting', head=dict(type='mmssl.PixelHead', in_channels=128))
