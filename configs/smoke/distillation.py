# Ten iterations that distil a small ViT with random weights into a small ResNet, on the generated demo data:
# well under a minute on a CPU; the tests run it.
#
#   python tools/train.py configs/smoke/distillation.py
_base_ = './mae.py'
model = dict(
    _delete_=True,
    type='mmssl.Distillation',
    backbone=dict(type='mmpretrain.ResNet', depth=18, stem_channels=16, base_channels=16),
    teacher=dict(
        type='mmssl.ViT',
        arch=dict(embed_dims=64, num_layers=2, num_heads=4, feedforward_channels=128),
        img_size=48,
        patch_size=8,
    ),
)
