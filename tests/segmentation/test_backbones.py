"""GCN and DUC on what pre-training leaves: a ViT of MAE, a ResNet of MoCo, and on MobileNetV2."""

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmssl.layers.vit import ViT

ARCH = dict(embed_dims=16, num_layers=3, num_heads=2, feedforward_channels=32)
RESNET = dict(type='ResNet', depth=18, stem_channels=8, base_channels=8)
LOSS = dict(type='CrossEntropyLoss', avg_non_ignore=True)


@pytest.fixture(scope='module')
def mae_file(tmp_path_factory):
    """A checkpoint with an encoder for images of 32 pixels, as an MAE run leaves it."""
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    model = MODELS.build(
        dict(
            type='mmssl.MAE',
            backbone=dict(type='mmssl.MAEViT', arch=ARCH, img_size=32, patch_size=8, mask_ratio=0.75),
            neck=dict(
                type='mmssl.MAEDecoder',
                num_patches=16,
                patch_size=8,
                embed_dim=16,
                decoder_embed_dim=16,
                decoder_depth=1,
                decoder_num_heads=2,
            ),
            head=dict(type='mmssl.MAEHead', patch_size=8),
        )
    )
    path = tmp_path_factory.mktemp('mae') / 'epoch_1.pth'
    torch.save(dict(state_dict=model.state_dict(), meta={}), path)
    return path


@pytest.fixture(scope='module')
def moco_file(tmp_path_factory):
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    model = MODELS.build(
        dict(
            type='mmssl.MoCo',
            backbone={**RESNET, 'type': 'mmpretrain.ResNet'},
            queue_len=8,
            neck=dict(type='mmssl.MoCoV2Neck', in_channels=64, out_channels=8),
        )
    )
    path = tmp_path_factory.mktemp('moco') / 'epoch_1.pth'
    torch.save(dict(state_dict=model.state_dict(), meta={}), path)
    return path


def pretrained(path):
    return dict(type='Pretrained', checkpoint=str(path), prefix='backbone.')


def backbones(mae_file, moco_file):
    """Name to backbone, widths and strides of its maps."""
    vit = dict(
        type='mmssl.ViT',
        arch=ARCH,
        img_size=64,
        patch_size=8,
        out_indices=(0, 2),
        init_cfg=pretrained(mae_file),
    )
    return {
        'vit': (vit, [16, 16], [8, 8]),
        'resnet': ({**RESNET, 'init_cfg': pretrained(moco_file)}, [8, 16, 32, 64], [4, 8, 16, 32]),
        'mobilenet': (
            dict(type='MobileNetV2', widen_factor=0.25, out_indices=(1, 2, 4, 6)),
            [8, 8, 24, 80],
            [4, 8, 16, 32],
        ),
    }


@pytest.mark.parametrize('name', ['vit', 'resnet', 'mobilenet'])
@pytest.mark.parametrize('head', ['gcn', 'duc'])
def test_it_trains_and_predicts(name, head, mae_file, moco_file):
    init_default_scope('mmseg')
    backbone, widths, strides = backbones(mae_file, moco_file)[name]
    if head == 'gcn':
        decode = dict(
            type='mmssl.GlobalConvHead',
            in_channels=widths,
            strides=strides,
            kernel_size=5,
            num_classes=4,
            loss_decode=LOSS,
        )
    else:
        decode = dict(
            type='mmssl.DUCHead',
            in_channels=widths[-1],
            in_index=len(widths) - 1,
            factor=strides[-1],
            dilations=(1, 2),
            num_classes=4,
            loss_decode=LOSS,
        )
    torch.manual_seed(0)
    model = MODELS.build(
        dict(
            type='mmssl.EncoderDecoder',
            backbone=backbone,
            decode_head=decode,
            test_cfg=ConfigDict(mode='whole'),
        )
    )
    model.init_weights()
    samples = [
        SegDataSample(
            metainfo=dict(img_shape=(64, 96), ori_shape=(64, 96), pad_shape=(64, 96)),
            gt_sem_seg=PixelData(data=torch.randint(0, 4, (1, 64, 96))),
        )
        for _ in range(2)
    ]
    images = torch.randn(2, 3, 64, 96)
    losses = model.train().loss(images, samples)
    losses['decode.loss_ce'].backward()
    first = next(model.backbone.parameters())
    assert first.grad is not None and first.grad.abs().sum() > 0
    model.eval()
    with torch.no_grad():
        out = model.predict(images, samples)
    assert out[0].pred_sem_seg.data.shape == (1, 64, 96)


def test_the_weights_are_those_of_pre_training(mae_file, moco_file):
    init_default_scope('mmseg')
    for name, path in (('vit', mae_file), ('resnet', moco_file)):
        net = MODELS.build(ConfigDict(backbones(mae_file, moco_file)[name][0]))
        net.init_weights()
        saved = torch.load(path, weights_only=True)['state_dict']
        own = dict(net.named_parameters())
        same = [
            key
            for key in own
            if f'backbone.{key}' in saved and torch.equal(saved[f'backbone.{key}'], own[key])
        ]
        # the position table was made larger
        assert set(own) - set(same) == ({'pos_embed'} if isinstance(net, ViT) else set())
