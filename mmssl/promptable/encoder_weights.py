"""Weights of another image size, or of a plain ViT, for the image encoder of Segment Anything."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from mmssl.checkpoint import strip_prefix
from mmssl.ops.rel_attention import resize_rel_pos
from mmssl.promptable.plain_vit import from_vit


def resize_positions(table: Tensor, grid: Sequence[int]) -> Tensor:
    """Resize positional encodings (1, h, w, C), bicubic, to (1, *grid, C); the same tensor if they fit."""
    if tuple(table.shape[1:3]) == tuple(grid):
        return table
    maps = table.permute(0, 3, 1, 2).float()
    resized = F.interpolate(maps, size=tuple(grid), mode='bicubic', align_corners=False)
    return resized.permute(0, 2, 3, 1).to(table.dtype)


def fit_weights(module: nn.Module, state_dict: dict, prefix: str, *_) -> None:
    """Fit a state dict to a :class:`mmssl.SAMImageEncoder` before it is loaded, and log what changed.

    Weights of a plain ViT are renamed; tables of positions and of relative positions are resized.
    """
    from mmengine.logging import print_log

    name = prefix or 'the encoder'
    if f'{prefix}layers.0.ln1.weight' in state_dict:
        _rename_plain_vit(state_dict, prefix)
        print_log(
            f'{name}: weights of a plain ViT; the neck and the relative positions begin anew', 'current'
        )
    resized = [*_fit_positions(module, state_dict, prefix), *_fit_rel_pos(module, state_dict, prefix)]
    if resized:
        print_log(f'{name}: resized ' + ', '.join(resized), 'current')


def _rename_plain_vit(state_dict: dict, prefix: str) -> None:
    own = [key for key in state_dict if key.startswith(prefix)]
    renamed = from_vit(strip_prefix(state_dict, prefix))  # with the grid that the file says
    for key in own:
        del state_dict[key]
    state_dict.update({prefix + key: value for key, value in renamed.items()})


def _fit_positions(module: nn.Module, state_dict: dict, prefix: str) -> list[str]:
    """Resize the table of positions; returns what to log."""
    table = state_dict.get(f'{prefix}pos_embed')
    if module.pos_embed is None or table is None or table.ndim != 4:
        return []
    old, new = tuple(table.shape[1:3]), tuple(module.pos_embed.shape[1:3])
    if old == new:
        return []
    state_dict[f'{prefix}pos_embed'] = resize_positions(table, new)
    return [f'positions from {old[0]}x{old[1]} to {new[0]}x{new[1]} (bicubic)']


def _fit_rel_pos(module: nn.Module, state_dict: dict, prefix: str) -> list[str]:
    """Resize the tables of relative positions; returns what to log."""
    lengths = []
    for name, parameter in module.named_parameters():
        table = state_dict.get(prefix + name) if 'rel_pos' in name else None
        if table is not None and table.ndim == 2 and len(table) != len(parameter):
            state_dict[prefix + name] = resize_rel_pos(table, len(parameter))
            lengths.append((len(table), len(parameter)))
    if not lengths:
        return []
    old, new = lengths[-1]
    return [f'{len(lengths)} tables of relative positions from {old} to {new} offsets (linear)']
