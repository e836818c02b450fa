"""Distillation: the loss by formula, backbones of the toolboxes, teachers that stay as they are."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from safetensors.torch import save_file
from torch import nn

from mmssl.checkpoint.download import cache_path
from mmssl.checkpoint.hub import hub_url
from mmssl.errors import UserError
from mmssl.registry import MODELS
from mmssl.selfsup.distillation import Distillation, align, features_of

ARCH = dict(embed_dims=12, num_layers=1, num_heads=2, feedforward_channels=16)
TEACHER = dict(type='mmssl.ViT', arch=ARCH, img_size=32, patch_size=4)
STUDENT = dict(type='mmpretrain.ResNet', depth=18, stem_channels=4, base_channels=4)
BACKBONES = {
    'CSPNeXt': dict(type='mmdet.CSPNeXt', widen_factor=0.0625, deepen_factor=0.17),
    'Swin': dict(
        type='mmdet.SwinTransformer', embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), window_size=2
    ),
    'MobileNetV2': dict(type='mmpretrain.MobileNetV2', widen_factor=0.1),
    'ViT': dict(type='mmssl.ViT', arch=ARCH, img_size=64, patch_size=16, out_type='raw', num_registers=2),
}


class Scaled(nn.Module):
    """Maps whose values are the images', times a weight: (B, 3, H / 2, W / 2)."""

    def __init__(self, factor=1.0, channels=3):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1, groups=channels, bias=False)
        nn.init.constant_(self.conv.weight, factor)

    def forward(self, x):
        return F.avg_pool2d(self.conv(x), 2)


def images(batch=2, size=32, channels=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, channels, size, size, generator=generator)


def normalised(row):
    return (row - row.mean()) / (row.var(unbiased=False) + 1e-5).sqrt()


def distance(prediction, target, criterion):
    """By loops over the rows of (..., C)."""
    values = []
    for row, other in zip(prediction.flatten(0, -2), target.flatten(0, -2), strict=True):
        other = normalised(other)
        if criterion == 'cosine':
            values.append(1 - (row @ other) / (row.norm() * other.norm()))
        else:
            gap = (row - other).abs()
            values.append(torch.where(gap < 1, gap**2 / 2, gap - 0.5).mean())
    return torch.stack(values).mean()


@pytest.mark.parametrize('criterion', ['cosine', 'smooth_l1'])
def test_loss_of_two_teachers_by_loops(criterion):
    torch.manual_seed(0)
    model = Distillation(
        STUDENT, [TEACHER, Scaled(3.0)], [1.0, 0.25], criterion, dense_weight=2.0, global_weight=0.5
    ).double()
    x = images().double()
    student = model.backbone(x)[-1]
    expected = 0.0
    for index, weight in enumerate((1.0, 0.25)):
        output = model.teachers[index](x)
        target = output[-1] if isinstance(output, tuple) else output
        prediction = model.dense_projectors[index](student)
        prediction = F.interpolate(prediction, target.shape[2:], mode='bilinear', align_corners=False)
        expected += (
            weight * 2.0 * distance(prediction.permute(0, 2, 3, 1), target.permute(0, 2, 3, 1), criterion)
        )
        pooled = model.global_projectors[index](student.mean((2, 3)))
        expected += weight * 0.5 * distance(pooled, target.mean((2, 3)), criterion)
    torch.testing.assert_close(model.loss(x)['loss'], expected, rtol=1e-9, atol=0)


def test_the_coarser_map_is_interpolated():
    coarse, fine = torch.tensor([[[[0.0, 4.0]]]]), torch.zeros(1, 1, 1, 4)
    assert align(coarse, fine)[0].flatten().tolist() == [0.0, 1.0, 3.0, 4.0]
    assert align(fine, coarse)[1].flatten().tolist() == [0.0, 1.0, 3.0, 4.0]


@pytest.mark.parametrize('name', BACKBONES)
def test_any_backbone_learns_and_loads_by_one_line(name, tmp_path):
    pytest.importorskip(BACKBONES[name]['type'].partition('.')[0])
    torch.manual_seed(0)
    model = Distillation(BACKBONES[name], TEACHER).train()
    model.loss(images(size=64))['loss'].backward()
    unused = [key for key, value in model.backbone.named_parameters() if value.grad is None]
    assert len(unused) < len(list(model.backbone.parameters())) / 4, unused  # norms of other levels
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'student.pth')
    init = dict(type='Pretrained', checkpoint=str(tmp_path / 'student.pth'), prefix='backbone.')
    backbone = MODELS.build(ConfigDict(BACKBONES[name], init_cfg=init))
    backbone.init_weights()
    for key, value in model.backbone.state_dict().items():
        assert torch.equal(backbone.state_dict()[key], value), key


def test_class_token_and_grid_of_tokens():
    vit = MODELS.build(BACKBONES['ViT'])
    x = images(size=64)[:, :, :32]
    tokens = vit(x)[-1]
    dense, pooled = features_of(vit, x)
    assert torch.equal(pooled, tokens[:, 0])
    assert torch.equal(dense.flatten(2).transpose(1, 2), tokens[:, 3:]) and dense.shape[2:] == (2, 4)


def test_the_dense_loss_reads_a_level():
    student = dict(STUDENT, out_indices=(1, 3))
    model = Distillation(student, TEACHER, level=0)
    assert model.dense_projectors[0].in_channels == 8 and model.global_projectors[0].in_features == 32
    with pytest.raises(ValueError, match='level=2, but ResNet returns 2 output'):
        Distillation(student, TEACHER, level=2)


def test_teachers_get_their_channels():
    student = dict(STUDENT, in_channels=5)
    model = Distillation(student, Scaled(), teacher_channels=(4, 0, 2))
    x = images(channels=5)
    expected = F.avg_pool2d(x[:, [4, 0, 2]], 2)
    assert torch.equal(model.targets(x)[0].dense, expected)
    model.loss(x)['loss'].backward()
    for channels in (None, (0, 1), (0, 1, 5)):
        with pytest.raises(ValueError, match='the student takes 5 channels and the teacher Scaled 3'):
            Distillation(student, Scaled(), teacher_channels=channels)


def test_teachers_stay_as_they_are_and_students_do_not():
    torch.manual_seed(0)
    teacher = MODELS.build(dict(STUDENT, init_cfg=None))  # with batch norm
    loaded = {key: value.clone() for key, value in teacher.state_dict().items()}
    model = Distillation(STUDENT, [teacher, dict(TEACHER)])
    model.init_weights()
    model.train()
    assert not any(part.training for part in model.teachers.modules())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1)
    first = model.loss(images())['loss']
    first.backward()
    optimizer.step()
    assert model.loss(images())['loss'] < first
    after = model.state_dict()
    assert all(torch.equal(after[f'teachers.0.{key}'], value) for key, value in loaded.items())
    assert all(torch.equal(after[key], before[key]) for key in after if key.startswith('teachers.'))
    assert not torch.equal(after['backbone.conv1.weight'], before['backbone.conv1.weight'])


def test_weights_of_a_teacher_come_from_its_init_cfg(tmp_path):
    teacher = MODELS.build(TEACHER)
    torch.save(teacher.state_dict(), tmp_path / 'teacher.pth')
    init = dict(type='Pretrained', checkpoint=str(tmp_path / 'teacher.pth'))
    model = Distillation(STUDENT, dict(TEACHER, init_cfg=init))
    model.init_weights()
    for key, value in teacher.state_dict().items():
        assert torch.equal(model.teachers[0].state_dict()[key], value), key


def test_a_teacher_is_named_as_in_timm(tmp_path, monkeypatch):
    timm = pytest.importorskip('timm')
    monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path))
    released = timm.create_model('vit_tiny_patch16_224', num_classes=0).eval()
    name = 'vit_tiny_patch16_224.tag'
    path = Path(cache_path(hub_url(f'timm://{name}'), f'hub/{name}'))  # as if it had been downloaded
    path.parent.mkdir(parents=True)
    save_file(released.state_dict(), path)
    model = Distillation(STUDENT, [TEACHER, f'timm://{name}'])
    model.init_weights()
    x = images(1, 224)
    with torch.no_grad():
        expected = released.forward_features(x)[:, 1:].transpose(1, 2).unflatten(2, (14, 14))
    torch.testing.assert_close(model.targets(x)[1].dense, expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match="no backbone is named 'vit_huger'"):
        Distillation(STUDENT, 'timm://vit_huger')


def test_a_teacher_without_weights_is_reported(monkeypatch):
    messages = []
    monkeypatch.setattr('mmssl.selfsup.distillation.print_log', lambda text, *_: messages.append(text))
    Distillation(STUDENT, TEACHER).init_weights()
    assert len(messages) == 1 and messages[0].startswith('the teacher ViT starts with random weights')


def gradients(rank, world):
    torch.manual_seed(0)
    model = Distillation(TEACHER, TEACHER).double()
    model.loss(images(4).double().chunk(world)[rank])['loss'].backward()
    parameters = [parameter for parameter in model.parameters() if parameter.grad is not None]
    for parameter in parameters:
        if world > 1:
            torch.distributed.all_reduce(parameter.grad)
            parameter.grad /= world
    return [parameter.grad for parameter in parameters]


def test_two_processes_train_as_one(two_ranks):
    first, second = two_ranks(gradients, 2)
    for one, a, b in zip(gradients(0, 1), first, second, strict=True):
        torch.testing.assert_close(a, one, atol=1e-12, rtol=0)
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(teacher=[]), '0 weights for 0 teachers'),
        (dict(weights=[1.0, 2.0]), '2 weights for 1 teachers'),
        (dict(dense_weight=0, global_weight=0), 'nothing is learned'),
        (dict(weights=[-1.0]), 'none may be negative'),
        (dict(criterion='L1'), "criterion='L1' of Distillation is unknown"),
        (dict(teacher=dict(TEACHER, out_type='cls_token')), 'set dense_weight=0'),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Distillation(STUDENT, **{'teacher': TEACHER, **settings})
