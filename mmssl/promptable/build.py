"""Models by name, as the official package builds them."""

from pathlib import Path
from typing import Any

from mmssl.checkpoint import load_file, weights_of
from mmssl.promptable.image_encoder import ARCHS, SAMImageEncoder
from mmssl.promptable.sam import SAM
from mmssl.promptable.tiny_vit import SAMTinyViT

KINDS = (*ARCHS, 'vit_t')
SIZES = ('image_encoder', 'prompt_encoder', 'mask_decoder', 'pixel_mean', 'pixel_std')


def build_sam(kind: str | dict[str, Any] = 'vit_h', checkpoint: str | Path | None = None) -> SAM:
    """Build a Segment Anything model in evaluation mode.

    Args:
        kind: 'vit_b', 'vit_l', 'vit_h', 'vit_t' (MobileSAM, arXiv:2306.14289), or a dict with any of
            ``image_encoder``, ``prompt_encoder`` and ``mask_decoder``, each a dict of arguments of the
            official class (``transformer`` inside ``mask_decoder``). An ``image_encoder`` with a ``type`` is
            built from the registry.
        checkpoint: File with the official names, or written by a training run. It must fit; tables of another
            image size are resized.

    Returns:
        The model; ``model.state_dict()`` has the official names again.

    Raises:
        ValueError: An unknown kind, or a file that does not fit, with the names that are missing or unknown.
    """
    if isinstance(kind, str):
        if kind not in KINDS:
            raise ValueError(
                f'no model {kind!r}; there are {", ".join(KINDS)}, or a dict of image_encoder, '
                'prompt_encoder, mask_decoder'
            )
        sizes: dict[str, Any] = {}
        encoder = SAMTinyViT() if kind == 'vit_t' else SAMImageEncoder(arch=kind)
    else:
        unknown = set(kind) - set(SIZES)
        if unknown:
            raise ValueError(
                f'unknown parts {sorted(unknown)}; give image_encoder, prompt_encoder and mask_decoder'
            )
        sizes = dict(kind)
        encoder = sizes.pop('image_encoder', {})
        if isinstance(encoder, dict) and 'type' not in encoder:
            encoder = SAMImageEncoder(**encoder)
    model = SAM(encoder, **sizes).eval()
    if checkpoint is not None:
        model.load_state_dict(dict(weights_of(load_file(checkpoint), str(checkpoint))), strict=True)
    return model
