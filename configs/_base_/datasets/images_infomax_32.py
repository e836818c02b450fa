# Images of the size of CIFAR's as Deep InfoMax takes them: whole, 32x32, without augmentation. Larger images
# are cropped to their centre.
_base_ = './images.py'
data_preprocessor = dict(mean=[125.307, 122.961, 113.8575], std=[51.5865, 50.847, 51.255])
train_pipeline = [
    dict(type='mmssl.LoadCenterCrop', scale=32, ratio=1.0),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=64, num_workers=4, dataset=dict(data_root='data/cifar10', pipeline=train_pipeline)
)
