"""``mmssl convert`` as a person types it."""

import pytest
import torch
from safetensors.torch import load_file as load_safetensors
from safetensors.torch import save_file as save_safetensors

from mmssl.apis import get_backbone
from mmssl.checkpoint import load_weights
from mmssl.cli import main
from mmssl.convert import from_official, to_official

timm = pytest.importorskip('timm')
ViT = pytest.importorskip('mmssl.layers.vit').ViT

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def net():
    torch.manual_seed(0)
    return timm.create_model('vit_tiny_patch16_224', num_classes=0, depth=2)


@pytest.fixture
def source(net, tmp_path):
    torch.save(net.state_dict(), tmp_path / 'timm.pth')
    return tmp_path / 'timm.pth'


def test_round_trip_through_both_file_formats(warm_cli, net, source, tmp_path):
    ours, back = tmp_path / 'new' / 'ours.pth', tmp_path / 'back.safetensors'
    done = warm_cli('convert', 'timm-vit', source, ours)
    assert done.returncode == 0, done.stderr
    values = sum(parameter.numel() for parameter in net.parameters())
    assert f'30 keys, {values:,} values' in done.stdout and 'backbone' in done.stdout
    weights = torch.load(ours, weights_only=True)['state_dict']
    assert torch.equal(weights['backbone.layers.1.ffn.layers.1.weight'], net.blocks[1].mlp.fc2.weight)
    assert 'reading' not in done.stderr
    done = warm_cli('convert', 'timm-vit', ours, back, '--reverse', '--progress')
    assert done.returncode == 0, done.stderr
    assert 'reading:' in done.stderr and 'writing:' in done.stderr
    restored = load_safetensors(back)
    assert set(restored) == set(net.state_dict()) and all(
        torch.equal(restored[key], value) for key, value in net.state_dict().items()
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ['back.safetensors', 'new', 'timm.pth']
    done = warm_cli('convert', 'timm-vit', back, tmp_path / 'again.safetensors')
    assert done.returncode == 0 and set(load_safetensors(tmp_path / 'again.safetensors')) == set(weights)


@pytest.mark.parametrize('family', ['dinov2', 'dinov3', 'ijepa', 'hf-vit', 'convnext'])
def test_timm_vit_takes_the_names_of_every_release(warm_cli, family, tmp_path):
    arch = dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64)
    settings = dict(arch=arch, img_size=28, patch_size=14)
    if family == 'convnext':
        backbone = get_backbone('convnext_tiny', arch=dict(depths=[1, 1, 1, 1], channels=[4, 8, 12, 16]))
    else:
        name = {'ijepa': 'vit_huge_patch14_gap_224', 'dinov3': 'vit_small_patch16_dinov3_qkvb'}
        backbone = get_backbone(name.get(family, 'vit_small_patch14_reg4_dinov2'), **settings)
    torch.save(to_official(family, backbone.state_dict(), prefix=''), tmp_path / 'released.pth')
    done = warm_cli('convert', 'timm-vit', tmp_path / 'released.pth', tmp_path / 'ours.pth')
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f'{family} (')
    weights = torch.load(tmp_path / 'ours.pth', weights_only=True)['state_dict']
    state = {f'backbone.{key}': value for key, value in backbone.state_dict().items()}
    assert weights.keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in weights.items())


def test_encoder_out_of_a_checkpoint_with_a_decoder(warm_cli, net, tmp_path):
    weights = from_official('timm-vit', net.state_dict()) | {
        'neck.mask_token': torch.zeros(1, 1, 16),
        'neck.ln1.weight': torch.ones(16),
    }
    torch.save({'state_dict': weights, 'meta': {}}, tmp_path / 'mae.pth')
    done = warm_cli('convert', 'timm-vit', tmp_path / 'mae.pth', tmp_path / 'out.pth', '--reverse')
    assert done.returncode == 1 and '--drop neck.' in done.stderr and '2 unknown' in done.stderr
    assert not (tmp_path / 'out.pth').exists()
    done = warm_cli(
        'convert', 'timm-vit', tmp_path / 'mae.pth', tmp_path / 'out.pth', '--reverse', '--drop', 'neck.'
    )
    assert done.returncode == 0 and '2 keys dropped' in done.stdout
    net.load_state_dict(torch.load(tmp_path / 'out.pth', weights_only=True), strict=True)


def test_refusals_name_the_value_and_leave_nothing(warm_cli, source, tmp_path, capsys):
    target = tmp_path / 'there.pth'
    target.write_text('precious')
    for args, message in [
        (('timm-vit', source, target), '--force replaces it'),
        (('timm-vit', tmp_path / 'none.pth', tmp_path / 'out.pth'), 'none.pth'),
        (('mae', source, tmp_path / 'out.pth', '--reverse'), 'the other direction'),
        (('mea', source, tmp_path / 'out.pth'), "did you mean 'mae'"),
        (
            ('timm-vit', source, tmp_path / 'out.pth', '--drop', 'decoder.'),
            '--drop decoder.: no key begins so',
        ),
        (('timm-vit', target, tmp_path / 'out.pth'), 'there.pth'),
        (('timm-vit', source, tmp_path), 'is a directory'),
    ]:
        status = main(['convert', *map(str, args), *(['--force'] if args[-1] == tmp_path else [])])
        assert status == 1 and message in capsys.readouterr().err, args
    assert target.read_text() == 'precious'
    assert sorted(path.name for path in tmp_path.iterdir()) == ['there.pth', 'timm.pth']
    assert warm_cli('convert', 'timm-vit', source, target, '--force').returncode == 0
    assert 'state_dict' in torch.load(target, weights_only=True)


def test_the_grid_of_a_position_table_goes_along(warm_cli, tmp_path):
    torch.manual_seed(0)
    settings = dict(embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=32)
    wide = ViT(arch=settings, img_size=(128, 512), patch_size=16)
    large = ViT(arch=settings, img_size=(256, 1024), patch_size=16)
    expected = ViT(arch=settings, img_size=(256, 1024), patch_size=16)
    load_weights(expected, wide.state_dict(), logger='silent')
    torch.save(wide.state_dict(), tmp_path / 'ours.pth')
    released = tmp_path / 'released.safetensors'
    for arguments in (('ours.pth', released, '--reverse'), (released, 'again.pth')):
        done = warm_cli(
            'convert',
            'timm-vit',
            *(tmp_path / arguments[0], tmp_path / arguments[1]),
            *arguments[2:],
            '--prefix',
            '',
        )
        assert done.returncode == 0, done.stderr
    load_weights(large, tmp_path / 'again.pth', strict=True, logger='silent')
    assert torch.equal(large.pos_embed, expected.pos_embed)
    # a file of timm does not say it: 256 patches may be 16x16
    save_safetensors(load_safetensors(released), tmp_path / 'bare.safetensors')
    for grid, status, message in (
        ('8x32', 0, ''),
        ('16x32', 1, '257 positions'),
        ('8*32', 2, 'ROWSxCOLUMNS'),
    ):
        done = warm_cli(
            'convert',
            'timm-vit',
            tmp_path / 'bare.safetensors',
            tmp_path / f'{grid}.pth',
            '--prefix',
            '',
            '--grid',
            grid,
        )
        assert done.returncode == status and message in done.stderr
        assert (tmp_path / f'{grid}.pth').exists() == (status == 0)
    torch.nn.init.zeros_(large.pos_embed)
    load_weights(large, tmp_path / '8x32.pth', strict=True, logger='silent')
    assert torch.equal(large.pos_embed, expected.pos_embed)
    done = warm_cli('convert', 'timm-vit', released, tmp_path / 'no.pth', '--grid', '16x16')
    assert done.returncode == 1 and 'is of 8x32 patches, as its file says' in done.stderr
