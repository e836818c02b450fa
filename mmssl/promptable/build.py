"""Models by name, as the official package builds them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmssl.checkpoint import load_file, weights_of
from mmssl.checkpoint.matching import load_weights
from mmssl.promptable.image_encoder import ARCHS, SAMImageEncoder
from mmssl.promptable.sam import SAM
from mmssl.promptable.tiny_vit import SAMTinyViT

KINDS = (*ARCHS, 'vit_t')
SIZES = ('image_encoder', 'prompt_encoder', 'mask_decoder', 'pixel_mean', 'pixel_std')
# parts that other models add to the mask decoder, by the beginning of their names
FOREIGN_PARTS = {
    'mask_decoder.hf_token': 'SAM-HQ',
    'mask_decoder.hf_mlp': 'SAM-HQ',
    'mask_decoder.compress_vit_feat': 'SAM-HQ',
}


def build_sam(kind: str | Path | dict[str, Any] = 'vit_h', checkpoint: str | Path | None = None) -> SAM:
    """Build a Segment Anything model in evaluation mode.

    Args:
        kind: 'vit_b', 'vit_l', 'vit_h' (also 'default'), 'vit_t' (MobileSAM, arXiv:2306.14289), or a dict
            with any of ``image_encoder``, ``prompt_encoder`` and ``mask_decoder``, each a dict of arguments
            of the official class (``transformer`` inside ``mask_decoder``). An ``image_encoder`` with a
            ``type`` is built from the registry. A path is a checkpoint of 'vit_h'.
        checkpoint: File with the official names, or written by a training run. It must fit; tables of another
            image size are resized.

    Returns:
        The model; ``model.state_dict()`` has the official names again.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        ValueError: An unknown kind, or a file that does not fit, with the names that are missing or unknown.
    """
    if _is_path(kind):
        if checkpoint is not None:
            raise ValueError(f'two checkpoints, {str(kind)!r} and {str(checkpoint)!r}; give one')
        kind, checkpoint = 'vit_h', kind
    if checkpoint is not None:  # a file that cannot be read is reported before the model is built
        weights = dict(weights_of(load_file(checkpoint), str(checkpoint)))
        _check_parts(weights, checkpoint)
    model = _build(kind if isinstance(kind, dict) else str(kind))
    if checkpoint is not None:
        load_weights(model, weights, strict=True)
    return model


def build_sam_vit_h(checkpoint: str | Path | None = None) -> SAM:
    """Build the largest model, see :func:`build_sam`."""
    return build_sam('vit_h', checkpoint)


def build_sam_vit_l(checkpoint: str | Path | None = None) -> SAM:
    """Build the model with a ViT-L, see :func:`build_sam`."""
    return build_sam('vit_l', checkpoint)


def build_sam_vit_b(checkpoint: str | Path | None = None) -> SAM:
    """Build the model with a ViT-B, see :func:`build_sam`."""
    return build_sam('vit_b', checkpoint)


def build_sam_vit_t(checkpoint: str | Path | None = None) -> SAM:
    """Build MobileSAM, see :func:`build_sam`."""
    return build_sam('vit_t', checkpoint)


sam_model_registry: dict[str, Callable[..., SAM]] = {
    'default': build_sam_vit_h,
    'vit_h': build_sam_vit_h,
    'vit_l': build_sam_vit_l,
    'vit_b': build_sam_vit_b,
    'vit_t': build_sam_vit_t,
}


def _is_path(kind) -> bool:
    """True for a path, or a string that is no name of a model and could be a file."""
    if not isinstance(kind, str):
        return isinstance(kind, Path)
    return kind not in sam_model_registry and (Path(kind).name != kind or '.' in kind or Path(kind).exists())


def _build(kind: str | dict[str, Any]) -> SAM:
    if isinstance(kind, str):
        if kind not in sam_model_registry:
            raise ValueError(
                f'no model {kind!r}; there are {", ".join(KINDS)}, or a dict of image_encoder, '
                'prompt_encoder, mask_decoder'
            )
        arch = 'vit_h' if kind == 'default' else kind
        return SAM(SAMTinyViT() if arch == 'vit_t' else SAMImageEncoder(arch=arch)).eval()
    unknown = set(kind) - set(SIZES)
    if unknown:
        raise ValueError(
            f'unknown parts {sorted(unknown)}; give image_encoder, prompt_encoder and mask_decoder'
        )
    sizes = dict(kind)
    encoder = sizes.pop('image_encoder', {})
    if isinstance(encoder, dict) and 'type' not in encoder:
        encoder = SAMImageEncoder(**encoder)
    return SAM(encoder, **sizes).eval()


def _check_parts(weights: dict[str, Any], checkpoint: str | Path) -> None:
    """Raise ValueError if a checkpoint is one of a model with more parts."""
    for key in weights:
        for part, model in FOREIGN_PARTS.items():
            if part in key:
                raise ValueError(
                    f'{checkpoint} is a checkpoint of {model}, whose mask decoder has parts that Segment '
                    f'Anything lacks ({key}); give a checkpoint of Segment Anything'
                )
