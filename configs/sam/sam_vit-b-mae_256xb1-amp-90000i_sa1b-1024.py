# Segment Anything, https://arxiv.org/abs/2304.02643, appendix A: the recipe of the paper from a MAE encoder,
# with a ViT-B at 1024.
#
#   GPUS=256 tools/slurm_train.sh PARTITION JOB \
#       configs/sam/sam_vit-b-mae_256xb1-amp-90000i_sa1b-1024.py --data DIR \
#       --cfg-options load_from=FILE
#
# FILE is a checkpoint of configs/mae/mae_vit-base-p16_8xb512-amp-coslr-300e_in1k.py or one like it; neck,
# relative positions, prompt encoder and decoder begin anew.
# DIR holds train and val of SA-1B.
# Expected: no figure in the paper for a ViT-B with this schedule.
default_scope = 'mmpretrain'
_base_ = [
    '../_base_/models/sam_vit-b.py',
    '../_base_/datasets/sa1b_1024.py',
    '../_base_/schedules/adamw_sam.py',
]
model = dict(model=dict(image_encoder=dict(drop_path_rate=0.4)))
optim_wrapper = dict(optimizer=dict(lr=8e-4), paramwise_cfg=dict(layer_decay_rate=0.8))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, begin=0, end=250, by_epoch=False),
    dict(type='MultiStepLR', milestones=[60000, 86666], gamma=0.1, begin=0, end=90000, by_epoch=False),
]
train_cfg = dict(max_iters=90000, val_interval=10000)
auto_scale_lr = dict(base_batch_size=256)
