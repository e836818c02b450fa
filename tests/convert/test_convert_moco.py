"""Files of the MoCo release: their names, written out, into our model and back."""

import pytest
import torch

from mmssl.checkpoint import load_file
from mmssl.cli import main
from mmssl.convert import from_official, to_official
from mmssl.selfsup.moco import MoCo, MoCoV1Neck, MoCoV2Neck


def official_resnet(depth, stem, channels):
    """Names and shapes of torchvision's ResNet without its classifier."""

    def norm(name, width):
        return {
            f'{name}.weight': (width,),
            f'{name}.bias': (width,),
            f'{name}.running_mean': (width,),
            f'{name}.running_var': (width,),
            f'{name}.num_batches_tracked': (),
        }

    shapes = {f'{stem}conv1.weight': (channels, 3, 7, 7), **norm(f'{stem}bn1', channels)}
    blocks, bottleneck = {18: ((2, 2, 2, 2), False), 50: ((3, 4, 6, 3), True)}[depth]
    inputs = channels
    for stage, number in enumerate(blocks):
        inner = channels * 2**stage
        outputs = 4 * inner if bottleneck else inner
        for block in range(number):
            name = f'{stem}layer{stage + 1}.{block}.'
            sizes = (
                [(inner, inputs, 1), (inner, inner, 3), (outputs, inner, 1)]
                if bottleneck
                else [(inner, inputs, 3), (inner, inner, 3)]
            )
            for index, (out, into, kernel) in enumerate(sizes, 1):
                shapes |= {
                    f'{name}conv{index}.weight': (out, into, kernel, kernel),
                    **norm(f'{name}bn{index}', out),
                }
            if block == 0 and inputs != outputs:
                shapes |= {
                    f'{name}downsample.0.weight': (outputs, inputs, 1, 1),
                    **norm(f'{name}downsample.1', outputs),
                }
            inputs = outputs
    return shapes, inputs


def official_moco(version, depth=18, channels=8, dim=16, length=32):
    """A state dict as ``MoCo`` of moco/builder.py gives it."""
    shapes = {}
    for encoder in ('encoder_q.', 'encoder_k.'):
        resnet, width = official_resnet(depth, encoder, channels)
        shapes |= resnet
        if version == 2:
            shapes |= {f'{encoder}fc.0.weight': (width, width), f'{encoder}fc.0.bias': (width,)}
        last = f'{encoder}fc' if version == 1 else f'{encoder}fc.2'
        shapes |= {f'{last}.weight': (dim, width), f'{last}.bias': (dim,)}
    generator = torch.Generator().manual_seed(0)
    weights = {
        key: torch.tensor(7) if key.endswith('tracked') else torch.rand(shape, generator=generator)
        for key, shape in shapes.items()
    }
    return {'queue': torch.rand(dim, length, generator=generator), 'queue_ptr': torch.tensor([24]), **weights}


def our_moco(version, depth=18, channels=8, dim=16, length=32):
    width = channels * (32 if depth == 50 else 8)
    neck = MoCoV1Neck(width, dim) if version == 1 else MoCoV2Neck(width, out_channels=dim)
    return MoCo(
        backbone=dict(type='mmpretrain.ResNet', depth=depth, stem_channels=channels, base_channels=channels),
        neck=neck,
        queue_len=length,
    )


@pytest.mark.parametrize(('version', 'depth'), [(1, 18), (2, 18), (1, 50), (2, 50)])
def test_a_released_file_loads_strictly_and_comes_back(version, depth):
    official = official_moco(version, depth)
    model = our_moco(version, depth)
    ours = from_official('moco', {'state_dict': official, 'epoch': 200})
    model.load_state_dict(ours, strict=True)
    assert model.queue.queue_ptr == 24 and torch.equal(model.queue.queue, official['queue'])
    assert torch.equal(model.backbone.layer4[1].conv2.weight, official['encoder_q.layer4.1.conv2.weight'])
    backbone = model.encoder_k.module[0]
    assert torch.equal(
        backbone.layer2[0].downsample[1].running_var, official['encoder_k.layer2.0.downsample.1.running_var']
    )
    head = model.encoder_k.module[1].fc if version == 1 else model.encoder_k.module[1].mlp[2]
    assert torch.equal(head.weight, official[f'encoder_k.fc{".2" * (version == 2)}.weight'])
    back = to_official('moco', ours)
    assert list(back) == list(official) and all(back[key] is value for key, value in official.items())
    trained = to_official('moco', model.state_dict())  # our counters stay here
    assert trained.keys() == official.keys() and all(
        torch.equal(trained[key], value) for key, value in official.items()
    )


def test_the_files_of_the_release_have_a_prefix_before_every_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    official = {f'module.{key}': value for key, value in official_moco(2).items()}
    torch.save({'state_dict': official, 'arch': 'resnet18', 'epoch': 200}, tmp_path / 'official.pth.tar')
    for arguments in (['official.pth.tar', 'ours.pth'], ['ours.pth', 'back.pth.tar', '--reverse']):
        assert main(['convert', 'moco', *arguments]) == 0
        assert 'moco (v2, ResNet-18)' in capsys.readouterr().out
    our_moco(2).load_state_dict(load_file(tmp_path / 'ours.pth')['state_dict'], strict=True)
    back = load_file(tmp_path / 'back.pth.tar')['state_dict']
    assert list(back) == list(official) and all(
        torch.equal(back[key], value) for key, value in official.items()
    )


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda weights: weights.pop('encoder_k.fc.2.bias'), '1 missing: encoder_k.fc.2.bias'),
        (
            lambda weights: weights.update({'encoder_q.fc.4.bias': torch.zeros(16)}),
            '1 unknown: encoder_q.fc.4.bias',
        ),
        (lambda weights: weights.update({'queue_ptr': torch.tensor(3)}), r'queue_ptr \(\), expected \(1\)'),
        (
            lambda weights: weights.update({'encoder_q.layer3.0.conv1.weight': torch.zeros(32, 8, 3, 3)}),
            '1 tensors do not fit',
        ),
    ],
)
def test_other_files_are_refused(change, message):
    official = official_moco(2)
    change(official)
    with pytest.raises(ValueError, match=message):
        from_official('moco', official)
