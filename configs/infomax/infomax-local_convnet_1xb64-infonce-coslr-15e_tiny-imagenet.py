# Deep InfoMax (https://arxiv.org/abs/1808.06670) on photographs of 64x64 pixels, reduced to 32x32, and one
# CPU core: the encoder of the paper's CIFAR experiments, smaller embeddings, random crops as in the paper's
# experiments on STL-10, 15 epochs, under ten minutes for 6,000 images.
#
#   python tools/train.py \
#       configs/infomax/infomax-local_convnet_1xb64-infonce-coslr-15e_tiny-imagenet.py --data DIR_OR_ZIP
#
# DIR_OR_ZIP holds train/<class>/* and val/<class>/*; k-NN is measured at the start, every 5 epochs and at the
# end.
# Expected: see docs/results/selfsup.md, measured here.
_base_ = './infomax-local_convnet_1xb64-infonce-1000e_cifar10.py'
data_root = 'data/tiny-imagenet'
model = dict(units=256)
train_pipeline = [
    dict(type='mmssl.LoadRandomResizedCrop', scale=32, crop_ratio_range=(0.4, 1.0), interpolation='bicubic'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    num_workers=1, dataset=dict(data_root=data_root, data_prefix='train', pipeline=train_pipeline)
)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = dict(
    _delete_=True, type='mmssl.WarmupCosineLR', warmup=1, end=15, by_epoch=True, convert_to_iter_based=True
)
train_cfg = dict(max_epochs=15)
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=5))
custom_hooks = _base_.custom_hooks + [
    dict(
        type='mmssl.KNNHook',
        data=data_root,
        interval=5,
        at_start=True,
        image_size=32,
        batch_size=250,
        num_workers=1,
    )
]
