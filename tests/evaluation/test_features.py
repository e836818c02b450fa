"""Features out of models of every shape, with nothing of the model or of the random states changed."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from mmssl.evaluation import extract_features, preserve_rng
from mmssl.evaluation.features import pool_features

layers = pytest.importorskip('mmssl.layers.vit')
mae = pytest.importorskip('mmssl.selfsup.mae')
ARCH = dict(embed_dims=24, num_layers=2, num_heads=2, feedforward_channels=48)


class Reducer(nn.Module):
    """Returns its normalised input in the shape asked for, and draws while doing so."""

    def __init__(self, shape):
        super().__init__()
        self.norm, self.frozen = nn.BatchNorm2d(3), nn.Dropout(0.5).eval()
        self.shape = shape

    def forward(self, images):
        random.random(), np.random.rand(), torch.rand(1)
        maps = self.norm(images)
        return (
            maps.flatten(2).transpose(1, 2)
            if self.shape == 'tokens'
            else maps.mean((2, 3))
            if self.shape == 'vectors'
            else maps,
        )


def batches(count=5, size=32, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8).to(dtype)
    return [(images[:3], torch.tensor([2, 0, 1])), (images[3:], torch.tensor([1, 0]))], images


def make_mae(**kwargs):
    from mmengine.registry import init_default_scope

    init_default_scope('mmpretrain')
    return mae.MAE(
        backbone=mae.MAEViT(arch=ARCH, img_size=32, patch_size=8, **kwargs),
        neck=mae.MAEDecoder(
            num_patches=16,
            patch_size=8,
            embed_dim=24,
            decoder_embed_dim=16,
            decoder_depth=1,
            decoder_num_heads=2,
        ),
        head=mae.MAEHead(patch_size=8),
        data_preprocessor=dict(
            type='mmpretrain.SelfSupDataPreprocessor', mean=[120.0] * 3, std=[60.0] * 3, to_rgb=True
        ),
    )


def test_maps_tokens_and_vectors_are_pooled():
    loader, images = batches()
    mean, mean_but_first = images.mean((2, 3)), images.flatten(2)[..., 1:].mean(-1)
    for shape, expected in [('maps', mean), ('vectors', mean), ('tokens', mean_but_first)]:
        features, labels = extract_features(Reducer(shape), loader)
        # a batch norm in evaluation mode, fresh, only divides by sqrt(1 + eps)
        torch.testing.assert_close(features, expected / (1 + 1e-5) ** 0.5)
        assert (
            labels.tolist() == [2, 0, 1, 1, 0]
            and labels.dtype == torch.long
            and features.dtype == torch.float32
        )
    features, _ = extract_features(Reducer('tokens'), loader, pool='cls')
    torch.testing.assert_close(features, images[:, :, 0, 0] / (1 + 1e-5) ** 0.5)


def test_modes_buffers_and_random_states_are_left_alone():
    loader, _ = batches()
    model = Reducer('maps').train()
    model.frozen.eval()
    modes = [module.training for module in model.modules()]
    buffers = {name: value.clone() for name, value in model.state_dict().items()}
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = random.random(), np.random.rand(), torch.rand(1).item()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    features, _ = extract_features(model, loader)
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected
    assert [module.training for module in model.modules()] == modes and True in modes and False in modes
    assert all(torch.equal(buffers[name], value) for name, value in model.state_dict().items())
    assert not features.requires_grad


def test_modes_come_back_after_an_error():
    model = Reducer('maps').train()
    with pytest.raises(RuntimeError):
        extract_features(model, [(torch.zeros(2, 7, 4, 4), torch.tensor([0, 1]))])
    assert model.training


def test_mae_sees_whole_images_normalised_by_its_preprocessor():
    model = make_mae()
    loader, images = batches(dtype=torch.uint8)
    features, _ = extract_features(model, loader)
    normalised = (images.float()[:, [2, 1, 0]] - 120) / 60
    with torch.no_grad():
        expected = model.eval().backbone(normalised)[-1]
    torch.testing.assert_close(features, expected.mean((2, 3)), atol=1e-5, rtol=1e-5)


def test_a_backbone_that_returns_its_class_token_is_pooled_as_asked():
    model = make_mae()
    loader, _ = batches(dtype=torch.uint8)
    expected = {pool: extract_features(model, loader, pool)[0] for pool in ('avg', 'cls', None)}
    assert torch.equal(expected['avg'], expected[None])
    model.backbone.out_type = 'cls_token'
    for pool in ('avg', 'cls'):
        torch.testing.assert_close(extract_features(model, loader, pool)[0], expected[pool])
    torch.testing.assert_close(extract_features(model, loader)[0], expected['cls'])
    assert model.backbone.out_type == 'cls_token'


def test_class_token_of_a_backbone_that_returns_maps():
    model = make_mae()
    loader, images = batches(dtype=torch.uint8)
    features, _ = extract_features(model, loader, pool='cls')
    assert model.backbone.out_type == 'featmap'
    tokens = layers.ViT(arch=ARCH, img_size=32, patch_size=8, out_type='cls_token').eval()
    tokens.load_state_dict(model.backbone.state_dict())
    with torch.no_grad():
        expected = tokens((images.float()[:, [2, 1, 0]] - 120) / 60)[-1]
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-5)


def test_an_image_classifier_gives_its_backbone_not_its_neck():
    from mmengine.registry import init_default_scope
    from mmpretrain.models import ImageClassifier

    init_default_scope('mmpretrain')
    model = ImageClassifier(
        backbone=dict(type='mmssl.ViT', arch=ARCH, img_size=32, patch_size=8, out_type='cls_token'),
        neck=dict(type='mmpretrain.ClsBatchNormNeck', input_features=24),
        head=dict(type='mmpretrain.LinearClsHead', num_classes=3, in_channels=24),
        data_preprocessor=dict(mean=[120.0] * 3, std=[60.0] * 3, to_rgb=True),
    )
    model.neck.bn.running_mean.fill_(100.0)
    loader, images = batches(dtype=torch.uint8)
    features, _ = extract_features(model, loader)
    with torch.no_grad():
        expected = model.eval().backbone((images.float()[:, [2, 1, 0]] - 120) / 60)[-1]
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-5)


def test_batches_of_mmengine_loaders():
    from mmpretrain.structures import DataSample

    loader, images = batches()
    samples = [DataSample().set_gt_label(label) for label in (2, 0, 1, 1, 0)]
    features, labels = extract_features(Reducer('maps'), [dict(inputs=list(images), data_samples=samples)])
    torch.testing.assert_close(features, extract_features(Reducer('maps'), loader)[0])
    assert labels.tolist() == [2, 0, 1, 1, 0]
    with pytest.raises(ValueError, match='no labels'):
        extract_features(Reducer('maps'), [dict(inputs=list(images), data_samples=[DataSample()] * 5)])


def test_progress_goes_to_standard_error_only_on_request(capsys):
    loader, _ = batches()
    extract_features(Reducer('maps'), loader)
    assert capsys.readouterr() == ('', '')
    extract_features(Reducer('maps'), loader, progress=True)
    out, err = capsys.readouterr()
    assert out == '' and 'features' in err and '/2 [' in err


def test_bad_input_is_refused():
    loader, _ = batches()
    with pytest.raises(ValueError, match="pool 'max' is unknown"):
        extract_features(Reducer('maps'), loader, pool='max')
    with pytest.raises(ValueError, match="'cls' needs a class token"):
        extract_features(Reducer('maps'), loader, pool='cls')
    with pytest.raises(ValueError, match="'cls' needs a class token"):
        extract_features(
            layers.ViT(arch=ARCH, img_size=32, patch_size=8, with_cls_token=False), loader, 'cls'
        )
    with pytest.raises(ValueError, match='no images'):
        extract_features(Reducer('maps'), [])
    with pytest.raises(ValueError, match='no data_preprocessor'):
        extract_features(Reducer('maps'), batches(dtype=torch.uint8)[0])
    with pytest.raises(ValueError, match='can be pooled'):
        pool_features((torch.zeros(2, 3, 4, 5, 6),), 'avg')


def test_preserve_rng_restores_after_an_error():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    with pytest.raises(KeyError), preserve_rng():
        torch.rand(5)
        raise KeyError
    assert torch.equal(torch.rand(1), expected)
