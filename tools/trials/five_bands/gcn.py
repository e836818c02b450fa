# GCN on scenes of five bands; made for tools/trials/five_bands.py, which measures measured.py.
_base_ = ['mmssl::smoke/gcn.py', './measured.py']
data_preprocessor = dict(mean=_base_.mean, std=_base_.std, size=(96, 96))
model = dict(
    data_preprocessor=data_preprocessor,
    backbone=dict(in_channels=5, stem_channels=16, base_channels=16),
    decode_head=dict(in_channels=[16, 32, 64, 128], num_classes=5),
)
loading = dict(type='mmssl.LoadImage', channels=5, value_range=_base_.value_range)
train_pipeline = [
    loading,
    dict(type='mmssl.LoadLabelMap'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='mmssl.BandJitter'),
    dict(type='PackSegInputs'),
]
test_pipeline = [loading, dict(type='mmssl.LoadLabelMap'), dict(type='PackSegInputs')]
metainfo = dict(
    _delete_=True,
    classes=('background', 'rows', 'columns', 'checks', 'dots'),
    palette=[[50 * n, 255 - 50 * n, 90] for n in range(5)],
)
folder = dict(data_root='scenes', img_suffix='.tif', metainfo=metainfo)
train_dataloader = dict(dataset=dict(**folder, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(**folder, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = [dict(type='mmssl.SegmentationMetric')]
test_evaluator = val_evaluator
param_scheduler = [dict(type='PolyLR', eta_min=1e-4, power=0.9, begin=0, end=150, by_epoch=False)]
train_cfg = dict(max_iters=150, val_interval=150)
default_hooks = dict(logger=dict(interval=25), checkpoint=dict(interval=150))
