# Ten iterations of a small I-JEPA on the generated demo data: well under a minute on a CPU; the tests run it.
#
#   python tools/train.py configs/smoke/ijepa.py
_base_ = './mae.py'
model = dict(
    _delete_=True,
    type='mmssl.IJEPA',
    backbone=dict(
        type='mmssl.IJEPAViT',
        arch=dict(embed_dims=64, num_layers=2, num_heads=4, feedforward_channels=128),
        img_size=48,
        patch_size=6,
    ),
    neck=dict(type='mmssl.IJEPAPredictor', embed_dims=32, num_layers=1, num_heads=4),
    momentum=0.9,
)
