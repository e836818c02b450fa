"""Features of a frozen model over a data loader, computed once and kept."""

import contextlib
import inspect
import random
import sys
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

POOLS = ('avg', 'cls')


@contextlib.contextmanager
def preserve_rng() -> Iterator[None]:
    """Leave the generators of Python, NumPy and torch (all devices) as they were found."""
    import numpy as np

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = (
        torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else None
    )
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards every module is back in its own mode, frozen ones included."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextlib.contextmanager
def _raw_tokens(model: nn.Module, wanted: bool) -> Iterator[None]:
    """Let a vision transformer return all its tokens, so that the class token is among them."""
    backbone = getattr(model, 'backbone', model)
    before = getattr(backbone, 'out_type', None)
    if not wanted or before is None or before == 'cls_token':
        yield
        return
    if not getattr(backbone, 'num_extra_tokens', 1):
        raise ValueError(
            "pool 'cls' needs a class token, and this backbone has none (with_cls_token=False); use pool 'avg'"
        )
    backbone.out_type = 'raw'
    try:
        yield
    finally:
        backbone.out_type = before


def _forward(model: nn.Module, inputs: Tensor):
    if not hasattr(model, 'extract_feat'):
        return model(inputs)
    # a classifier would run its neck too
    stage = {'stage': 'backbone'} if 'stage' in inspect.signature(model.extract_feat).parameters else {}
    return model.extract_feat(inputs, **stage)


def pool_features(outputs, pool: str, num_extra_tokens: int = 1) -> Tensor:
    """One vector an image from whatever a backbone returns.

    Args:
        outputs: a tensor, or a tuple or list of one a stage, the last of which is used: maps (B, C, h, w);
            tokens (B, 1 + N, C), class token first; or vectors (B, C), taken as they are.
        pool: 'avg', the mean over positions or patch tokens; 'cls', the class token.
        num_extra_tokens: tokens before the patches.

    Returns:
        (B, C).

    Raises:
        ValueError: 'cls' of maps, or an output of another shape.
    """
    if pool not in POOLS:
        raise ValueError(f'pool {pool!r} is unknown; one of {", ".join(POOLS)}')
    output = outputs[-1] if isinstance(outputs, (tuple, list)) else outputs
    if not isinstance(output, Tensor) or output.ndim not in (2, 3, 4):
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(
            f'the backbone returned {shape}; maps (B, C, h, w), tokens (B, N, C) or vectors (B, C) can be pooled'
        )
    if output.ndim == 2:
        return output
    if output.ndim == 3:
        return output[:, 0] if pool == 'cls' else output[:, num_extra_tokens:].mean(dim=1)
    if pool == 'cls':
        raise ValueError(
            f"pool 'cls' needs a class token, but the backbone returned maps {tuple(output.shape)}; use pool 'avg'"
        )
    return output.mean(dim=(2, 3))


def _unpack(batch) -> tuple[Tensor, Tensor]:
    """(inputs, labels) of a batch: such a pair, or what mmengine's loaders give."""
    if isinstance(batch, dict):
        inputs, samples = batch['inputs'], batch.get('data_samples')
        if not samples or any('gt_label' not in sample for sample in samples):
            raise ValueError(
                'the images have no labels; features are evaluated on a labelled data set (folders named by class)'
            )
        return (
            torch.stack(list(inputs)) if isinstance(inputs, (list, tuple)) else inputs,
            torch.cat([torch.as_tensor(sample.gt_label).reshape(1) for sample in samples]),
        )
    inputs, labels = batch
    return inputs, torch.as_tensor(labels)


def extract_features(
    model: nn.Module,
    loader: Iterable,
    pool: str = 'avg',
    device: str | torch.device | None = None,
    progress: bool | None = None,
) -> tuple[Tensor, Tensor]:
    """Features of all images of a loader.

    The model is put into evaluation mode and brought back, module by module; random states are left as they
    were.

    Args:
        model: an algorithm of mmpretrain or mmssl (its ``data_preprocessor`` normalises the images), or a
            bare backbone fed with normalised images.
        loader: batches, either (images (B, 3, H, W), labels (B,)) or the dicts of mmengine's loaders.
        pool: 'avg' or 'cls', see :func:`pool_features`.
        device: where to compute, the model is moved there; where the model is when None.
        progress: a progress line with the time left on the standard error; None shows it on a terminal. Only
            ever on rank 0.

    Returns:
        features (N, D), float32, and labels (N,), long, both on the CPU, in the order of the loader.

    Raises:
        ValueError: no images, no labels, 'cls' without a class token, or images that nothing normalises.
    """
    from tqdm import tqdm

    if pool not in POOLS:
        raise ValueError(f'pool {pool!r} is unknown; one of {", ".join(POOLS)}')
    if device is not None:
        model.to(device)
    device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device('cpu'))
    preprocessor = getattr(model, 'data_preprocessor', None)
    extra = getattr(getattr(model, 'backbone', model), 'num_extra_tokens', 1)
    hidden = _rank() != 0 or not (sys.stderr.isatty() if progress is None else progress)
    features, labels = [], []
    with preserve_rng(), evaluating(model), torch.no_grad(), _raw_tokens(model, pool == 'cls'):
        for batch in tqdm(
            loader, desc='features', unit='batch', disable=hidden, leave=False, file=sys.stderr
        ):
            inputs, batch_labels = _unpack(batch)
            if not len(batch_labels):
                continue  # every file of the batch was bad
            if preprocessor is not None:
                inputs = preprocessor(dict(inputs=inputs, data_samples=None), False)['inputs']
            elif not inputs.is_floating_point():
                raise ValueError(
                    f'images are {inputs.dtype} and the model has no data_preprocessor to normalise them; pass float images'
                )
            pooled = pool_features(_forward(model, inputs.to(device)), pool, extra)
            features.append(pooled.float().cpu())
            labels.append(batch_labels.long().cpu())
    if not features:
        raise ValueError('the loader gave no images that can be read')
    return torch.cat(features), torch.cat(labels)


def _rank() -> int:
    return (
        torch.distributed.get_rank()
        if torch.distributed.is_available() and torch.distributed.is_initialized()
        else 0
    )


def image_size_of(model, cfg=None) -> int:
    """Side in pixels that the backbone was made for, the smaller side of a rectangle.

    A residual network is made for no size: where the backbone does not say, it is the size of the crops (of
        the first view) that ``cfg``
    trains on; 224 where that is not known either.
    """
    backbone = getattr(model, 'backbone', model)
    size = getattr(backbone, 'img_size', None)
    if size is None:  # the hosts' Swin leaves it to its stem
        size = getattr(getattr(backbone, 'patch_embed', None), 'init_input_size', None)
    if size is None:
        size = _trained_size(cfg)
    return int(size) if isinstance(size, int) else int(min(size))


def _trained_size(cfg) -> int | Sequence[int]:
    loader = (cfg or {}).get('train_dataloader') or {}
    for step in loader.get('dataset', {}).get('pipeline') or []:
        for node in (step, *(step.get('views') or [])):
            scale = node.get('scale')
            if isinstance(scale, int) or (
                isinstance(scale, (tuple, list)) and all(isinstance(side, int) for side in scale)
            ):
                return scale
    return 224
