# What all runs have in common. The scope, mmpretrain, mmdet or mmseg, is set by the config of each system.
# Names of this package have the prefix `mmssl.`; names without a prefix are looked up in the scope's toolbox,
# then in mmengine.
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='mmssl.CheckpointHook', interval=1, max_keep_ckpts=3),
    sampler_seed=dict(type='DistSamplerSeedHook'),
)
custom_hooks = [
    dict(type='mmssl.SanityHook'),  # refuses classes that do not fit the head before the first step
    dict(type='mmssl.NonFiniteHook', policy='stop'),  # or policy='skip', budget=10
    dict(type='mmssl.BadFilesHook'),  # unreadable images are skipped and listed; many of them stop the run
]
env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(
        backend='nccl', timeout=600
    ),  # gloo without a GPU; seconds until a stopped rank ends the job
)
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='Visualizer', vis_backends=vis_backends)
log_level = 'INFO'
load_from = None
resume = False
randomness = dict(seed=0, diff_rank_seed=True)
