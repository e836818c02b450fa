"""Extract the features of a frozen model from a data loader."""

import contextlib
import inspect
import random
import sys
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from mmssl.layers.modes import evaluating

POOLS = ('avg', 'cls', 'patch')


@contextlib.contextmanager
def preserve_rng() -> Iterator[None]:
    """Restore the random states of Python, NumPy and torch (all devices) at the end of the context."""
    python_state = random.getstate()
    numpy_state = np.random.get_state()
    torch_state = torch.get_rng_state()
    uses_cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
    cuda_states = torch.cuda.get_rng_state_all() if uses_cuda else None
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)
        if cuda_states is not None:
            torch.cuda.set_rng_state_all(cuda_states)


def outputs_to_pool(backbone: nn.Module, pool: str | None) -> str | None:
    """Return the ``out_type`` with which a vision transformer returns what is pooled; None for its own.

    Args:
        backbone: The backbone.
        pool: As for :func:`extract_features`.

    Raises:
        ValueError: ``pool`` is 'cls', and the backbone has no class token.
    """
    out_type = getattr(backbone, 'out_type', None)
    if pool == 'cls' and out_type not in (None, 'cls_token'):
        if not getattr(backbone, 'num_extra_tokens', 1):
            raise ValueError(
                "pool 'cls' needs a class token, and this backbone has none (with_cls_token=False); use pool "
                "'avg'"
            )
        return 'raw'
    if pool == 'patch' and out_type not in (None, 'raw', 'featmap'):
        return 'raw'
    return 'raw' if pool == 'avg' and out_type == 'cls_token' else None


@contextlib.contextmanager
def _with_outputs_to_pool(model: nn.Module, pool: str | None) -> Iterator[None]:
    """Have a vision transformer return what is pooled inside the context."""
    backbone = getattr(model, 'backbone', model)
    own_type, out_type = getattr(backbone, 'out_type', None), outputs_to_pool(backbone, pool)
    if out_type is None:
        yield
        return
    backbone.out_type = out_type
    try:
        yield
    finally:
        backbone.out_type = own_type


def _forward(model: nn.Module, inputs: Tensor):
    if not hasattr(model, 'extract_feat'):
        return model(inputs)
    # a classifier would run its neck too
    stage = {'stage': 'backbone'} if 'stage' in inspect.signature(model.extract_feat).parameters else {}
    return model.extract_feat(inputs, **stage)


def pool_features(outputs, pool: str | None, num_extra_tokens: int = 1) -> Tensor:
    """Pool the outputs of a backbone to a feature vector for each image, or for each patch.

    Args:
        outputs: Output of the last stage, or a tuple or list of the outputs of all stages. The last one is
            used: maps (B, C, h, w); tokens (B, 1 + N, C), class token first; or vectors (B, C), which are
            returned unchanged.
        pool: 'avg' or None for the mean over positions or patch tokens, 'cls' for the class token, 'patch'
            for all positions or patch tokens, row by row.
        num_extra_tokens: Number of tokens before the patch tokens.

    Returns:
        (B, C), or (B, N, C) for 'patch'.

    Raises:
        ValueError: The outputs are maps and ``pool`` is 'cls', or vectors and ``pool`` is 'patch', or they
            have another shape.
    """
    if pool not in (None, *POOLS):
        raise ValueError(f'pool {pool!r} is unknown; one of {", ".join(POOLS)}')
    output = outputs[-1] if isinstance(outputs, (tuple, list)) else outputs
    if not isinstance(output, Tensor) or output.ndim not in (2, 3, 4):
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(
            f'the backbone returned {shape}; only maps (B, C, h, w), tokens (B, N, C) and vectors (B, C) can '
            'be '
            'pooled'
        )
    if pool == 'patch':
        return _patches(output, num_extra_tokens)
    if output.ndim == 2:
        return output
    if output.ndim == 3:
        return output[:, 0] if pool == 'cls' else output[:, num_extra_tokens:].mean(dim=1)
    if pool == 'cls':
        raise ValueError(
            f"pool 'cls' needs a class token, but the backbone returned maps {tuple(output.shape)}; use pool "
            "'avg'"
        )
    return output.mean(dim=(2, 3))


def _patches(output: Tensor, num_extra_tokens: int) -> Tensor:
    if output.ndim == 2:
        raise ValueError(
            f"pool 'patch' needs the features of patches, but the backbone returned vectors "
            f'{tuple(output.shape)}'
        )
    return output[:, num_extra_tokens:] if output.ndim == 3 else output.flatten(2).transpose(1, 2)


def _unpack(batch) -> tuple[Tensor, Tensor]:
    """Return the inputs and labels of a batch: a pair of both, or a dict from one of mmengine's loaders."""
    if isinstance(batch, dict):
        inputs, samples = batch['inputs'], batch.get('data_samples')
        if not samples or any('gt_label' not in sample for sample in samples):
            raise ValueError(
                'the images have no labels; features are evaluated on a labelled dataset (folders named by '
                'class)'
            )
        labels = torch.cat([torch.as_tensor(sample.gt_label).reshape(1) for sample in samples])
        return torch.stack(list(inputs)) if isinstance(inputs, (list, tuple)) else inputs, labels
    inputs, labels = batch
    return inputs, torch.as_tensor(labels)


def extract_features(
    model: nn.Module,
    loader: Iterable,
    pool: str | None = None,
    device: str | torch.device | None = None,
    progress: bool | None = None,
    may_be_empty: bool = False,
) -> tuple[Tensor, Tensor]:
    """Compute the features of all images of a loader.

    The model runs in evaluation mode; afterwards its modules are in their own modes again. Random states are
    restored.

    Args:
        model: A model of mmpretrain or mmssl, whose ``data_preprocessor`` normalises the images, or a bare
            backbone, whose loader gives normalised images.
        loader: Batches (images (B, 3, H, W), labels (B,)), or the dicts of mmengine's loaders.
        pool: 'avg', 'cls' or 'patch', see :func:`pool_features`; None for the class token of a backbone
            that returns only that (``out_type='cls_token'``), and 'avg' otherwise.
        device: Device to which the model is moved; that of the model if None.
        progress: Show a progress line with the remaining time on standard error; None shows it on a terminal.
            Only rank 0 ever shows it.
        may_be_empty: Return (0, 0) features if none of the images can be read.

    Returns:
        Features (N, D), or (N, P, D) of P patches, float32, and labels (N,), int64, on the CPU and in the
        order of the loader.

    Raises:
        ValueError: There are no images or no labels, ``pool`` is 'cls' and there is no class token, or
            nothing normalises the images.
    """
    from tqdm import tqdm

    if pool not in (None, *POOLS):
        raise ValueError(f'pool {pool!r} is unknown; one of {", ".join(POOLS)}')
    if device is not None:
        model.to(device)
    device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device('cpu'))
    preprocessor = getattr(model, 'data_preprocessor', None)
    extra = getattr(getattr(model, 'backbone', model), 'num_extra_tokens', 1)
    hidden = _rank() != 0 or not (sys.stderr.isatty() if progress is None else progress)
    features, labels = [], []
    with preserve_rng(), evaluating(model), torch.no_grad(), _with_outputs_to_pool(model, pool):
        for batch in tqdm(
            loader, desc='features', unit='batch', disable=hidden, leave=False, file=sys.stderr
        ):
            inputs, batch_labels = _unpack(batch)
            if not len(batch_labels):
                continue  # no file of the batch could be decoded
            if preprocessor is not None:
                inputs = preprocessor(dict(inputs=inputs, data_samples=None), False)['inputs']
            elif not inputs.is_floating_point():
                raise ValueError(
                    f'images are {inputs.dtype} and the model has no data_preprocessor to normalise them; '
                    'pass '
                    'float images'
                )
            pooled = pool_features(_forward(model, inputs.to(device)), pool, extra)
            features.append(pooled.float().cpu())
            labels.append(batch_labels.long().cpu())
    if not features and may_be_empty:
        return torch.zeros(0, 0), torch.zeros(0, dtype=torch.long)
    if not features:
        raise ValueError('the loader gave no images that can be read')
    return torch.cat(features), torch.cat(labels)


def _rank() -> int:
    distributed = torch.distributed
    return distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0


def image_size_of(model, cfg=None) -> int:
    """Return the image size in pixels that a backbone was made for, the smaller side if rectangular.

    Residual networks are not made for a size. Then it is the size of the (first) crop that ``cfg`` trains on,
    or 224 if that is not known either.
    """
    backbone = getattr(model, 'backbone', model)
    size = getattr(backbone, 'img_size', None)
    if size is None:  # Swin keeps it in its patch embedding
        size = getattr(getattr(backbone, 'patch_embed', None), 'init_input_size', None)
    if size is None:
        size = _training_size(cfg)
    return int(size) if isinstance(size, int) else int(min(size))


def _training_size(cfg) -> int | Sequence[int]:
    loader = (cfg or {}).get('train_dataloader') or {}
    for step in loader.get('dataset', {}).get('pipeline') or []:
        for node in (step, *(step.get('views') or [])):
            scale = node.get('scale')
            if isinstance(scale, int):
                return scale
            if isinstance(scale, (tuple, list)) and all(isinstance(length, int) for length in scale):
                return scale
    return 224
