"""The sine-cosine table and resizing."""

import math

import pytest
import torch
import torch.nn.functional as F

from mmssl.checkpoint import load_weights
from mmssl.checkpoint.weight_files import write_weights
from mmssl.errors import MismatchError
from mmssl.layers.beit_vit import BEiTViT
from mmssl.layers.pos_embed import describe_pos_embed, grid_of, resize_pos_embed, sincos_2d
from mmssl.layers.relative_position import resize_bias_table
from mmssl.layers.vit import ViT
from mmssl.promptable.image_encoder import SAMImageEncoder
from mmssl.selfsup.mae_decoder import MAEDecoder


def test_x_fills_the_first_half_as_in_the_released_code():
    rows, columns, width = 3, 5, 16
    table = sincos_2d((rows, columns), width)
    assert table.shape == (1, 16, width) and table.dtype == torch.float32 and not table[0, 0].any()
    for y in range(rows):
        for x in range(columns):
            expected = []
            for position in (x, y):
                angles = [position / 10000 ** (n / (width / 4)) for n in range(width // 4)]
                expected += [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
            torch.testing.assert_close(
                table[0, 1 + y * columns + x], torch.tensor(expected), atol=1e-6, rtol=0
            )


def test_the_host_has_the_axes_swapped():
    from mmpretrain.models.utils import build_2d_sincos_position_embedding

    host = build_2d_sincos_position_embedding(6, 32, cls_token=True)
    ours = sincos_2d((6, 6), 32)
    assert (host - ours).abs().max() > 1
    swapped = ours[:, 1:].view(1, 6, 6, 32).transpose(1, 2).flatten(1, 2)
    torch.testing.assert_close(host[:, 1:], swapped, atol=2e-6, rtol=0)


def test_a_width_that_is_no_multiple_of_four_is_refused():
    with pytest.raises(ValueError, match='divisible by 4, not 30'):
        sincos_2d((2, 2), 30)


def test_resizing_keeps_extra_tokens_and_the_identity():
    table = torch.randn(1, 1 + 12, 8)
    assert resize_pos_embed(table, (3, 4), (3, 4)) is table
    larger = resize_pos_embed(table, (3, 4), (6, 8))
    assert larger.shape == (1, 49, 8) and torch.equal(larger[:, 0], table[:, 0])
    flat = torch.cat([table[:, :1], torch.full((1, 12, 8), 0.5)], 1)
    torch.testing.assert_close(resize_pos_embed(flat, (3, 4), (5, 7))[:, 1:], torch.full((1, 35, 8), 0.5))
    with pytest.raises(ValueError, match='12 patches is not a grid of 2x5'):
        resize_pos_embed(table, (2, 5), (4, 4))


@pytest.mark.parametrize(
    ('count', 'like', 'grid'),
    [(196, (14, 14), (14, 14)), (98, (28, 56), (7, 14)), (98, (56, 28), (14, 7)), (7, (1, 9), (1, 7))],
)
def test_grid_of(count, like, grid):
    assert grid_of(count, like) == grid


ARCH = dict(embed_dims=8, num_layers=1, num_heads=2, feedforward_channels=16)


def resized(table, source, target):
    grid = table.reshape(1, *source, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=target, mode='bicubic', align_corners=False)
    return grid.permute(0, 2, 3, 1).flatten(1, 2)


def loaded(table, **kwargs):
    model = ViT(arch=ARCH, patch_size=16, **kwargs)
    model.load_state_dict({**model.state_dict(), 'pos_embed': table.clone()})
    return model.pos_embed.detach()


def test_other_leading_tokens_are_never_patches():
    torch.manual_seed(0)
    patches, leading = torch.randn(1, 196, 8), torch.randn(1, 5, 8)
    for count in (0, 1, 2, 5):
        table = torch.cat([leading[:, :count], patches], dim=1)
        for with_cls_token in (True, False):
            for side in (14, 7):
                got = loaded(table, img_size=16 * side, with_cls_token=with_cls_token)
                torch.testing.assert_close(got[:, with_cls_token:], resized(patches, (14, 14), (side, side)))
                if with_cls_token:
                    assert torch.equal(got[:, :1], leading[:, :1] if count else torch.zeros(1, 1, 8))


@pytest.mark.parametrize(
    ('source', 'target'),
    [
        ((8, 32), (16, 32)),
        ((16, 16), (8, 32)),
        ((8, 32), (16, 16)),
        ((28, 14), (14, 14)),
        ((28, 14), (14, 28)),
        ((8, 32), (8, 32)),
    ],
)
def test_our_files_say_the_grid_of_their_table(source, target, tmp_path):
    pytest.importorskip('safetensors')
    sizes = [tuple(16 * side for side in grid) for grid in (source, target)]
    first, second = (ViT(arch=ARCH, patch_size=16, img_size=size) for size in sizes)
    torch.nn.init.normal_(first.pos_embed)
    expected = resized(first.pos_embed.detach()[:, 1:], source, target)
    torch.save(
        dict(state_dict=torch.nn.ModuleDict(dict(backbone=first)).state_dict()), tmp_path / 'whole.pth'
    )
    write_weights(first.state_dict(), str(tmp_path / 'bare.pth'))
    write_weights(first.state_dict(), str(tmp_path / 'bare.safetensors'))
    for name, prefix in (('whole.pth', 'backbone.'), ('bare.pth', None), ('bare.safetensors', None)):
        second.pos_embed.data.zero_()
        load_weights(second, tmp_path / name, prefix=prefix, strict=True)
        torch.testing.assert_close(second.pos_embed.detach()[:, 1:], expected)
        assert torch.equal(second.pos_embed[:, :1], first.pos_embed[:, :1])


@pytest.mark.parametrize(
    ('count', 'size'), [(257, (128, 512)), (257, (256, 512)), (393, (224, 224)), (393, (224, 448))]
)
def test_a_grid_that_the_file_does_not_state_is_an_error(count, size):
    table = torch.randn(1, count, 8)
    with pytest.raises(MismatchError, match=r'does not say of which grid.*(16x16|28x14).*describe_pos_embed'):
        loaded(table, img_size=size)
    model = ViT(arch=ARCH, patch_size=16, img_size=size)
    state = {**model.state_dict(), 'pos_embed': table}
    grid = (8, 32) if count == 257 else (28, 14)
    model.load_state_dict(describe_pos_embed(state, 'pos_embed', grid))
    torch.testing.assert_close(
        model.pos_embed.detach()[:, 1:], resized(table[:, 1:], grid, model.patch_resolution)
    )


def test_the_decoder_says_the_grid_of_its_table():
    first, second = (MAEDecoder(grid, 8, 3, 8, 8, 1, 2) for grid in ((4, 9), (6, 6)))
    torch.nn.init.normal_(first.decoder_pos_embed)
    second.load_state_dict(first.state_dict())
    expected = resized(first.decoder_pos_embed.detach()[:, 1:], (4, 9), (6, 6))
    torch.testing.assert_close(second.decoder_pos_embed.detach()[:, 1:], expected)


@pytest.mark.parametrize('target', [(6, 2), (2, 6), (4, 5)])
@pytest.mark.parametrize('shared', [True, False])
def test_bias_tables_of_rectangles_are_resized(target, shared):
    settings = dict(arch=ARCH, patch_size=16, use_shared_rel_pos_bias=shared, use_rel_pos_bias=not shared)
    first = BEiTViT(img_size=(32, 96), **settings)
    second = BEiTViT(img_size=tuple(16 * side for side in target), **settings)
    name = 'rel_pos_bias' if shared else 'layers.0.attn'
    table = first.get_submodule(name).relative_position_bias_table
    torch.nn.init.normal_(table)
    index = second.get_submodule(name).relative_position_index.clone()
    second.load_state_dict(dict(first.state_dict()))
    got = second.get_submodule(name)
    expected = table if target == (2, 6) else resize_bias_table(table, (2, 6), target)
    torch.testing.assert_close(got.relative_position_bias_table, expected)
    assert torch.equal(got.relative_position_index, index)


@pytest.mark.parametrize('size', [(2, 6), (6, 2)])
def test_sam_takes_the_grid_of_a_rectangular_vit(size):
    model = ViT(arch=ARCH, patch_size=16, img_size=tuple(16 * side for side in size))
    encoder = SAMImageEncoder(
        img_size=64,
        patch_size=16,
        embed_dim=8,
        depth=1,
        num_heads=2,
        out_chans=8,
        mlp_ratio=2.0,
        global_attn_indexes=[0],
    )
    torch.nn.init.normal_(model.pos_embed)
    encoder.load_state_dict(model.state_dict(), strict=False)
    expected = resized(model.pos_embed.detach()[:, 1:], size, (4, 4)).unflatten(1, (4, 4))
    torch.testing.assert_close(encoder.pos_embed.detach(), expected)
