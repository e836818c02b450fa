# MoCo v3 (https://arxiv.org/abs/2104.02057): ViT-S/16 on one machine, 300 epochs, batch 8 x 128, which is
# more stable than 4096 (section 4.1).
#
#   tools/dist_train.sh configs/mocov3/mocov3_vit-small-p16_8xb128-amp-coslr-300e_in1k.py 8 --data DIR
#
# Expected, ImageNet-1k: the official repository gives no figure for this batch size. Not measured here.
_base_ = './mocov3_vit-small-p16_16xb256-amp-coslr-300e_in1k.py'
train_dataloader = dict(batch_size=128)
optim_wrapper = dict(optimizer=dict(lr=1.5e-4 * 1024 / 256))
auto_scale_lr = dict(base_batch_size=1024)
