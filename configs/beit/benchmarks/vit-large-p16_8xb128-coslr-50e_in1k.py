# Fine-tuning of a BEiT ViT-L/16 (https://arxiv.org/abs/2106.08254, appendix): 50 epochs, layer-wise decay
# 0.75.
#
#   tools/dist_train.sh configs/beit/benchmarks/vit-large-p16_8xb128-coslr-50e_in1k.py 8 --data DIR \
#       --cfg-options model.backbone.init_cfg.checkpoint=FILE
#
# Expected, ImageNet-1k: the paper's abstract gives 86.3 top-1 for its best large model. Not measured here.
_base_ = './vit-base-p16_8xb128-coslr-100e_in1k.py'
model = dict(
    backbone=dict(arch='large', drop_path_rate=0.2, layer_scale_init_value=1e-5), head=dict(in_channels=1024)
)
optim_wrapper = dict(optimizer=dict(lr=1e-3), paramwise_cfg=dict(layer_decay_rate=0.75))
param_scheduler = dict(warmup=5, end=50)
train_cfg = dict(max_epochs=50)
