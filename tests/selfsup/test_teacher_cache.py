"""Features of teachers on disk: found again, never those of something else, never half a file."""

import pytest
import torch
from mmengine.config import ConfigDict

from mmssl.errors import UserError
from mmssl.registry import MODELS
from mmssl.selfsup.distillation import Distillation, features_of
from mmssl.selfsup.teacher_cache import TeacherCache

ARCH = dict(embed_dims=12, num_layers=2, num_heads=2, feedforward_channels=16)
VIT = dict(type='mmssl.ViT', arch=ARCH, img_size=32, patch_size=4)
STUDENT = dict(type='mmpretrain.ResNet', depth=18, stem_channels=4, base_channels=4)


def images(batch=3, seed=0):
    return torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


class Counting:
    """``features_of``, and the number of images that it has encoded."""

    def __init__(self):
        self.count = 0

    def __call__(self, network, images):
        self.count += len(images)
        return features_of(network, images)


def teacher(seed=0, **settings):
    torch.manual_seed(seed)
    return MODELS.build(ConfigDict(**VIT, **settings)).eval()


@torch.no_grad()
def test_an_image_is_encoded_once_and_in_any_batch(tmp_path):
    encode, network = Counting(), teacher()
    cache = TeacherCache(tmp_path / 'new/folder', network, encode)
    expected = features_of(network, images())
    for _ in range(2):
        for got, right in zip(cache(images()), expected, strict=True):
            assert torch.allclose(got, right, atol=1e-6)
    assert encode.count == 3
    mixed = torch.cat([images(1, seed=1), images()[1:2]])
    assert torch.allclose(cache(mixed)[1], features_of(network, mixed).pooled, atol=1e-6)
    assert encode.count == 4
    assert not [path for path in tmp_path.rglob('*') if path.is_file() and path.suffix != '.pth']


@torch.no_grad()
@pytest.mark.parametrize(
    'other',
    [dict(seed=1), dict(out_indices=(0,)), dict(out_type='cls_token')],
    ids=['seed', 'level', 'output'],
)
def test_another_network_never_gets_these_files(tmp_path, other):
    TeacherCache(tmp_path, teacher(), features_of)(images())
    network = teacher(**other)
    expected = features_of(network, images())
    for got, right in zip(TeacherCache(tmp_path, network, features_of)(images()), expected, strict=True):
        assert (got is None and right is None) or torch.allclose(got, right, atol=1e-6)


@torch.no_grad()
def test_other_weights_or_precision_are_seen(tmp_path):
    network = teacher()
    cache = TeacherCache(tmp_path, network, features_of)
    cache(images())
    network.load_state_dict(teacher(seed=1).state_dict())
    assert torch.allclose(cache(images())[1], features_of(network, images()).pooled, atol=1e-6)
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(cache(images())[1], features_of(network, images()).pooled)


def write(network, folder):
    for parameter in network.parameters():
        parameter.data.mul_(1.5)


def hook(network, folder):
    network.layers[0].register_forward_hook(lambda *call: call[-1] * 2)


def setting(network, folder):
    network.out_indices = [0]


def truncate(network, folder):
    for path in folder.rglob('*.pth'):
        path.write_bytes(path.read_bytes()[:100])


@torch.no_grad()
@pytest.mark.parametrize('change', [write, hook, setting, truncate])
def test_a_teacher_that_changes_unseen_and_damaged_files_are_encoded_again(tmp_path, change):
    network = teacher()
    cache = TeacherCache(tmp_path, network, features_of)
    before = cache(images())[1]
    change(network, tmp_path)
    expected = features_of(network, images()).pooled
    assert change is truncate or not torch.allclose(expected, before, atol=1e-4)
    assert torch.allclose(cache(images())[1], expected, atol=1e-6)


def test_losses_are_those_without_a_cache(tmp_path):
    losses = []
    for settings in ({}, dict(teacher_cache=str(tmp_path)), dict(teacher_cache=str(tmp_path))):
        torch.manual_seed(0)
        model = Distillation(STUDENT, VIT, **settings)
        model.init_weights()
        losses.append(model.loss(images())['loss'].item())
    assert losses[1:] == pytest.approx([losses[0]] * 2, rel=1e-6)
    assert len(list(tmp_path.rglob('*.pth'))) == 3


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(UserError, match='teacher_cache=.*cannot be made'):
        Distillation(STUDENT, VIT, teacher_cache=str(tmp_path / 'file/folder'))
