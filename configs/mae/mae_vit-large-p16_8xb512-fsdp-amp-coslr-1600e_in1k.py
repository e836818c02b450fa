# MAE (https://arxiv.org/abs/2111.06377): ViT-L/16, 1600 epochs, sharded over the GPUs (FSDP).
#
#   tools/dist_train.sh configs/mae/mae_vit-large-p16_8xb512-fsdp-amp-coslr-1600e_in1k.py 8 --data DIR
#
# Expected, ImageNet-1k: as mae_vit-large-p16_8xb512-amp-coslr-1600e_in1k.py; the
# arithmetic is the same, the memory is distributed.
_base_ = './mae_vit-large-p16_8xb512-amp-coslr-1600e_in1k.py'
runner_type = 'FlexibleRunner'
strategy = dict(type='mmssl.FSDPStrategy')  # every transformer block is a unit
