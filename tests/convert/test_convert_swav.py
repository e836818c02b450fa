"""Files of the SwAV release: their names, written out, into our model and back."""

import pytest
import torch

from mmssl.checkpoint import load_file
from mmssl.cli import main
from mmssl.convert import from_official, to_official
from mmssl.registry import MODELS, build


def official_swav(depth=50, channels=8, hidden=24, dim=16, prototypes=30, head=True):
    """A state dict of ``src/resnet50.py``, without the prefix of DistributedDataParallel."""

    def norm(name, width):
        return {
            f'{name}.weight': (width,),
            f'{name}.bias': (width,),
            f'{name}.running_mean': (width,),
            f'{name}.running_var': (width,),
            f'{name}.num_batches_tracked': (),
        }

    shapes = {'conv1.weight': (channels, 3, 7, 7), **norm('bn1', channels)}
    inputs = channels
    for stage, blocks in enumerate((3, 4, 6, 3) if depth == 50 else (2, 2, 2, 2)):
        inner = channels * 2**stage
        outputs = 4 * inner if depth == 50 else inner
        for block in range(blocks):
            name = f'layer{stage + 1}.{block}.'
            sizes = (
                [(inner, inputs, 1), (inner, inner, 3), (outputs, inner, 1)]
                if depth == 50
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
    if head:
        shapes |= {
            'projection_head.0.weight': (hidden, inputs),
            'projection_head.0.bias': (hidden,),
            **norm('projection_head.1', hidden),
            'projection_head.3.weight': (dim, hidden),
            'projection_head.3.bias': (dim,),
            'prototypes.weight': (prototypes, dim),
        }
    generator = torch.Generator().manual_seed(0)
    return {
        key: torch.tensor(7) if key.endswith('tracked') else torch.rand(shape, generator=generator)
        for key, shape in shapes.items()
    }


def our_swav(depth=50, channels=8, hidden=24, dim=16, prototypes=30, **kwargs):
    width = channels * (32 if depth == 50 else 8)
    return build(
        dict(
            type='SwAV',
            backbone=dict(
                type='mmpretrain.ResNet', depth=depth, stem_channels=channels, base_channels=channels
            ),
            neck=dict(type='SwAVNeck', in_channels=width, hid_channels=hidden, out_channels=dim),
            head=dict(type='SwAVHead', in_channels=dim, num_prototypes=prototypes),
            **kwargs,
        ),
        MODELS,
    )


@pytest.mark.parametrize('depth', [50, 18])
@pytest.mark.parametrize('released', [True, False])
def test_a_released_file_loads_strictly_and_comes_back(depth, released):
    official = official_swav(depth)
    # the released files are the state dict itself; those that training leaves keep it under 'state_dict'
    file = {f'module.{key}': value for key, value in official.items()}
    ours = from_official('swav', file if released else {'state_dict': file, 'epoch': 200})
    model = our_swav(depth)
    missing, unexpected = model.load_state_dict(ours, strict=False)
    assert not unexpected and set(missing) <= {'clock.steps', 'clock.followed'}
    model.load_state_dict(ours, strict=True)
    assert torch.equal(model.head.prototypes.weight, official['prototypes.weight'])
    assert torch.equal(model.neck.projection_neck[1].running_var, official['projection_head.1.running_var'])
    assert torch.equal(model.backbone.layer4[1].conv2.weight, official['layer4.1.conv2.weight'])
    back = to_official('swav', model.state_dict())
    assert set(back) == set(official) and all(
        torch.equal(value, official[key]) for key, value in back.items()
    )


def test_a_backbone_alone_is_torchvisions():
    torchvision = pytest.importorskip('torchvision')
    official = official_swav(18, channels=64, head=False)
    ours = from_official('swav', official)
    assert all(key.startswith('backbone.') for key in ours)
    net = torchvision.models.resnet18()
    missing, unexpected = net.load_state_dict(to_official('swav', ours), strict=False)
    assert set(missing) == {'fc.weight', 'fc.bias'} and not unexpected


def test_the_queue_stays_here(tmp_path, capsys):
    model = our_swav(18, queue_length=64)
    with pytest.raises(ValueError, match=r'unknown: .*queue\.queue'):
        to_official('swav', model.state_dict())
    torch.save(dict(state_dict=model.state_dict(), meta={}), tmp_path / 'ours.pth')
    command = [
        'convert',
        'swav',
        str(tmp_path / 'ours.pth'),
        str(tmp_path / 'official.pth'),
        '--reverse',
        '--drop',
        'queue.',
    ]
    assert main(command) == 0, capsys.readouterr().err
    assert set(load_file(tmp_path / 'official.pth')) == {f'module.{key}' for key in official_swav(18)}


def test_another_depth_is_refused():
    with pytest.raises(ValueError, match='do not fit family .swav.'):
        from_official(
            'swav', {key: value for key, value in official_swav(50).items() if not key.startswith('layer4.2')}
        )
