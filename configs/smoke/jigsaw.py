# Ten iterations of jigsaw puzzles on the generated demo data, CPU, well under a minute; the tests run it.
#
#   python tools/train.py configs/smoke/jigsaw.py
_base_ = '../_base_/smoke_pretext.py'
model = dict(
    type='mmssl.Jigsaw',
    head=dict(type='mmssl.PretextHead', in_channels=128),
    num_permutations=16,
    tile_size=12,
)
