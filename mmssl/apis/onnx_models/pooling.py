"""Pooling in operators that ONNX has for every size of the map and number of regions."""

from collections.abc import Sequence
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from mmssl.errors import UserError


class AdaptiveAveragePool(nn.Module):
    """Adaptive average pooling as two matrix products, for maps of any size.

    Bin i of n along an axis of length L averages the pixels from floor(i L / n) up to ceil((i + 1) L / n).

    Args:
        output_size: Rows and columns of the result.
    """

    def __init__(self, output_size: tuple[int, int]):
        super().__init__()
        self.output_size = output_size

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, *output_size)."""
        rows, columns = (
            _bin_weights(torch._shape_as_tensor(maps)[2 + axis], bins, maps)
            for axis, bins in enumerate(self.output_size)
        )
        return rows @ maps @ columns.t()


def _bin_weights(length: Tensor, bins: int, like: Tensor) -> Tensor:
    """Weights (bins, length) of the pixels of an axis."""
    pixel = torch.arange(length, device=like.device)
    index = torch.arange(bins, device=like.device)[:, None]
    start = index * length // bins
    end = ((index + 1) * length + bins - 1) // bins
    inside = ((pixel >= start) & (pixel < end)).to(like.dtype)
    return inside / (end - start).to(like.dtype)


def replace_adaptive_pooling(model: nn.Module) -> None:
    """Replace the adaptive average pooling of a model, which ONNX has for a single bin only."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.AdaptiveAvgPool2d):
                size = child.output_size
                rows, columns = size if isinstance(size, Sequence) else (size, size)
                if rows is not None and columns is not None and (rows, columns) != (1, 1):
                    setattr(parent, name, AdaptiveAveragePool((rows, columns)))


def pool_regions(extractor: Any, maps: Sequence[Tensor], rois: Tensor) -> Tensor:
    """Pool the features of regions from the level of their size.

    Args:
        extractor: A SingleRoIExtractor of mmdet with RoIAlign.
        maps: Maps (B, C, H, W) of the levels.
        rois: (N, 5), image, x1, y1, x2, y2.

    Returns:
        (N, C, size, size), float32.
    """
    maps = maps[: extractor.num_inputs]
    if len(maps) == 1:
        return _align(extractor.roi_layers[0], maps[0], rois)
    levels = extractor.map_roi_levels(rois, len(maps))
    rows = [(levels == level).nonzero()[:, 0] for level in range(len(maps))]
    pooled = [
        _align(layer, level_map, rois[row])
        for layer, level_map, row in zip(extractor.roi_layers, maps, rows, strict=True)
    ]
    return torch.cat(pooled)[torch.cat(rows).argsort()]


def _align(layer: Any, maps: Tensor, rois: Tensor) -> Tensor:
    return torchvision.ops.roi_align(
        maps.float(), rois, layer.output_size, layer.spatial_scale, layer.sampling_ratio, layer.aligned
    )


def check_extractor(extractor: Any, name: str) -> None:
    """Raise UserError unless an extractor averages samples of one level for each region."""
    layer = extractor.roi_layers[0]
    layer_type = type(layer).__name__
    if type(extractor).__name__ != 'SingleRoIExtractor' or layer_type != 'RoIAlign':
        raise UserError(
            f'{name} is a {type(extractor).__name__} of {layer_type}, which cannot be exported; '
            'a SingleRoIExtractor of RoIAlign can'
        )
    if layer.pool_mode != 'avg':
        raise UserError(f"{name} has pool_mode={layer.pool_mode!r}; export takes 'avg'")
