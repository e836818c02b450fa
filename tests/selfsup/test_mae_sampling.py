"""The three mask samplings of MAE: counts, shapes, golden grids; the default is unchanged."""

import pytest
import torch

from mmssl.layers.masking import block_masking, grid_masking, random_masking
from mmssl.selfsup.mae import MAE
from mmssl.selfsup.small import ARCH


def mae(**settings):
    torch.manual_seed(0)
    return MAE(
        dict(type='mmssl.MAEViT', arch=ARCH, img_size=32, patch_size=4, **settings),
        dict(type='mmssl.MAEDecoder', decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2),
        dict(type='mmssl.MAEHead'),
    )


def agreeing_neighbours(masked, grid):
    """Fraction of the pairs of neighbours, both masked or both visible."""
    mask = torch.zeros(len(masked), grid[0] * grid[1]).scatter(1, masked, 1).view(-1, *grid)
    pairs = mask[:, 1:] == mask[:, :-1], mask[:, :, 1:] == mask[:, :, :-1]
    return torch.cat([pair.flatten() for pair in pairs]).double().mean().item()


@pytest.mark.parametrize('ratio', [0.5, 0.75])
def test_blocks_have_the_number_of_random_masks_in_larger_regions(ratio):
    grid = (14, 10)
    torch.manual_seed(0)
    visible, masked = block_masking(40, grid, ratio)
    assert masked.shape == random_masking(40, 140, ratio)[1].shape
    assert torch.equal(torch.cat([visible, masked], dim=1).sort().values[3], torch.arange(140))
    random_pairs = agreeing_neighbours(random_masking(40, 140, ratio)[1], grid)
    assert agreeing_neighbours(masked, grid) > random_pairs + 0.15
    assert len({tuple(row.sort().values.tolist()) for row in masked}) == 40


def test_noise_is_the_draw_of_blocks():
    noise = torch.rand(3, 36)
    first, second = (block_masking(3, (6, 6), 0.75, noise) for _ in range(2))
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[1], block_masking(3, (6, 6), 0.75, 1 - noise)[1])


def test_grids_by_hand():
    visible, masked = grid_masking(2, (4, 5), 0.75)
    assert visible.tolist() == [[0, 2, 4, 10, 12, 14]] * 2
    assert masked.tolist() == [[1, 3, 5, 6, 7, 8, 9, 11, 13, 15, 16, 17, 18, 19]] * 2
    assert grid_masking(1, (6, 6), 8 / 9)[0].tolist() == [[0, 3, 18, 21]]


@pytest.mark.parametrize('sampling', ['random', 'block', 'grid'])
def test_every_sampling_trains_and_reconstructs(sampling):
    model, images = mae(mask_sampling=sampling), torch.randn(2, 3, 32, 32)
    model.loss(images)['loss'].backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)
    _, mask, pasted = model.reconstruct(images)
    assert mask.sum(dim=1).tolist() == [48, 48] and pasted.shape == images.shape
    visible = mask.view(2, 1, 8, 8).repeat_interleave(4, 2).repeat_interleave(4, 3) == 0
    visible = visible.expand_as(images)
    assert torch.equal(pasted[visible], images[visible])


def test_the_default_draws_what_it_drew():
    model, images = mae(), torch.zeros(3, 3, 32, 32)
    torch.manual_seed(3)
    masking = model.backbone.draw_masking(images)
    torch.manual_seed(3)
    order = torch.rand(3, 64).argsort(dim=1)
    assert torch.equal(masking.visible, order[:, :16]) and torch.equal(masking.masked, order[:, 16:])


def test_unknown_samplings_and_ratios_that_are_no_grid_are_refused():
    with pytest.raises(ValueError, match="mask_sampling='rows' of MAEViT is unknown; one of random, block"):
        mae(mask_sampling='rows')
    with pytest.raises(ValueError, match=r"mask_ratio 0\.6 does not fit mask_sampling='grid'"):
        mae(mask_sampling='grid', mask_ratio=0.6)
