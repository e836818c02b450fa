# DINOv2 (https://arxiv.org/abs/2304.07193) on 64x64 photographs and a CPU: the network, the views and the
# schedule of configs/dino/dino_vit-mini-p8_1xb64-amp-coslr-12e_tiny-imagenet.py, with DINOv2's losses.
#
#   python tools/train.py configs/dinov2/dinov2_vit-mini-p8_1xb64-amp-coslr-12e_tiny-imagenet.py \
#       --data DIR_OR_ZIP
#
# DIR_OR_ZIP holds train/<class>/* and val/<class>/*; k-NN is measured at the start, in the middle and at the
# end. With load_from=FILE it goes on from the DINO config's checkpoint.
# Expected: no figure; not measured here yet.
_base_ = '../dino/dino_vit-mini-p8_1xb64-amp-coslr-12e_tiny-imagenet.py'
model = dict(
    type='mmssl.DINOv2',
    backbone=dict(
        type='mmssl.DINOv2ViT', init_cfg=dict(type='Xavier', layer='Linear', distribution='uniform')
    ),
    head=dict(type='mmssl.DINOHead'),
    warmup_teacher_temp_epochs=0,
)
