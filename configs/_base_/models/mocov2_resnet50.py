# MoCo v2 with a ResNet-50: a queue of 65536 keys, momentum 0.999, a head with one hidden layer.
model = dict(
    type='mmssl.MoCo',
    backbone=dict(type='mmpretrain.ResNet', depth=50, zero_init_residual=False),
    neck=dict(type='mmssl.MoCoV2Neck', in_channels=2048, hid_channels=2048, out_channels=128),
    queue_len=65536,
    momentum=0.999,
    temperature=0.2,
)
