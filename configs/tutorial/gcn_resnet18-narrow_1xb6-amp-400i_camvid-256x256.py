# GCN, https://arxiv.org/abs/1703.02719, the third step of docs/tutorial.md: street scenes, on the backbone
# that the first step pre-trained.
#
#   python tools/train.py configs/tutorial/gcn_resnet18-narrow_1xb6-amp-400i_camvid-256x256.py --data DIR
#
# From random weights: --cfg-options model.backbone.init_cfg=None.
# DIR holds CamVid: images/{train,val}/*.jpg, labels/{train,val}/*.png. Nothing is frozen and all of the
# backbone learns at the full rate.
# Expected: see docs/results/transfer.md, measured here.
_base_ = '../camvid/gcn-k7_mobilenetv2_1xb6-amp-400i_camvid-256x256.py'
pretrained = 'work_dirs/pretrain_moco-v2_resnet18-narrow_1xb64-coslr-40e_pool/epoch_40.pth'
model = dict(
    backbone=dict(
        _delete_=True,
        type='ResNet',
        depth=18,
        stem_channels=32,
        base_channels=32,
        norm_cfg=dict(type='BN'),
        init_cfg=dict(type='Pretrained', checkpoint=pretrained, prefix='backbone'),
    ),
    decode_head=dict(in_channels=[32, 64, 128, 256]),
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=1.0))))
