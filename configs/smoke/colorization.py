# Ten iterations of colourisation on the generated demo data, CPU, well under a minute; the tests run it.
#
#   python tools/train.py configs/smoke/colorization.py
_base_ = '../_base_/smoke_pretext.py'
model = dict(type='mmssl.Colorization', head=dict(type='mmssl.PixelHead', in_channels=128))
