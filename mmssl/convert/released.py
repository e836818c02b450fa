"""Weights of released vision transformers and ConvNeXts, recognised by their names."""

from collections.abc import Mapping

from mmssl.convert import get_family, keymap
from mmssl.errors import UserError

# in the order in which they are tried
FAMILIES = ('timm-vit', 'hf-vit', 'dinov2', 'dinov3', 'ijepa', 'convnext')
# weights that only mmssl and mmpretrain name so
OWN = ('patch_embed.projection.weight', 'downsample_layers.0.0.weight')


def own_names(state_dict: Mapping, prefix: str = '') -> tuple[dict, str]:
    """Rename the weights of a released backbone to the names of mmssl and mmpretrain.

    Args:
        state_dict: Weights in the names of a release, or a checkpoint with them.
        prefix: Prefix of the names in the result.

    Returns:
        Weights without a classifier's head, and the name of the family of checkpoints.

    Raises:
        UserError: The names are of no release.
    """
    nearest = None
    for name in FAMILIES:
        family = get_family(name)
        weights = keymap.unwrap(state_dict, family.parts)
        try:
            renamed, _ = keymap.convert(family, weights, to_official=False, prefix='backbone.')
        except ValueError as error:
            nearest = min(nearest or str(error), str(error), key=len)
            continue
        backbone = {
            prefix + key.removeprefix('backbone.'): value
            for key, value in renamed.items()
            if key.startswith('backbone.')
        }
        return backbone, name
    raise UserError(
        f'the weights have the names of no known release ({", ".join(FAMILIES)}); the nearest: {nearest}'
    )


def in_own_names(expected: Mapping, state_dict: Mapping) -> tuple[Mapping, str | None]:
    """Rename released weights if a model has none of their names.

    Args:
        expected: State dict of the model.
        state_dict: Weights to load into it.

    Returns:
        Weights to load, and the name of the family that they came from; None if they are unchanged.
    """
    # counters and heads may have the same names by chance, the first layer does not
    prefixes = [key.removesuffix(name) for key in expected for name in OWN if key.endswith(name)]
    if not prefixes or any(key.endswith(OWN) for key in state_dict):
        return state_dict, None
    try:
        return own_names(state_dict, prefixes[0])
    except ValueError:
        return state_dict, None
