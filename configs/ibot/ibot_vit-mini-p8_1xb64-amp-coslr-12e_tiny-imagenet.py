# iBOT (https://arxiv.org/abs/2111.07832) on 64x64 photographs and a CPU: the network, the views and the
# schedule of configs/dino/dino_vit-mini-p8_1xb64-amp-coslr-12e_tiny-imagenet.py, with masked patches.
#
#   python tools/train.py configs/ibot/ibot_vit-mini-p8_1xb64-amp-coslr-12e_tiny-imagenet.py \
#       --data DIR_OR_ZIP
#
# DIR_OR_ZIP holds train/<class>/* and val/<class>/*; k-NN is measured at the start, in the middle and at the
# end. model.cls_weight=0 leaves the loss of the class token out: masked patches alone, as in BEiT.
# Expected: no figure; not measured here.
_base_ = '../dino/dino_vit-mini-p8_1xb64-amp-coslr-12e_tiny-imagenet.py'
model = dict(
    type='mmssl.IBOT',
    backbone=dict(
        type='mmssl.DINOv2ViT', init_cfg=dict(type='Xavier', layer='Linear', distribution='uniform')
    ),
    head=dict(type='mmssl.DINOHead'),
)
