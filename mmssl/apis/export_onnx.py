"""Backbones as ONNX graphs from images to pooled features."""

import copy
import os
from pathlib import Path

import torch
from torch import Tensor, nn

from mmssl.apis.export_configs import pixel_statistics

OPSET = 18
MAX_BATCH = 1 << 12


class FeatureGraph(nn.Module):
    """Normalize images, encode them, and average the features over positions.

    Args:
        model: Model with ``backbone`` and ``data_preprocessor``, or a bare backbone.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.backbone = getattr(model, 'backbone', model)
        self.num_extra_tokens = getattr(self.backbone, 'num_extra_tokens', 1)
        mean, std = pixel_statistics(model)
        self.register_buffer('mean', torch.tensor(mean).view(-1, 1, 1) * 255)
        self.register_buffer('std', torch.tensor(std).view(-1, 1, 1) * 255)

    def forward(self, image: Tensor) -> Tensor:
        """Compute features.

        Args:
            image: (B, 3, H, W) RGB pixels from 0 to 255.

        Returns:
            (B, D) features.
        """
        from mmssl.evaluation.features import pool_features

        return pool_features(self.backbone((image - self.mean) / self.std), 'avg', self.num_extra_tokens)


def export_onnx(model: nn.Module, out: Path) -> str:
    """Write the graph of a model's backbone.

    Returns:
        Inputs and outputs of the graph, in words.

    Raises:
        ImportError: The packages onnx and onnxscript are missing.
    """
    from mmssl.evaluation.features import image_size_of

    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise ImportError('ONNX export needs two packages: pip install onnx onnxscript') from None
    graph = FeatureGraph(copy.deepcopy(model)).float().cpu().eval().requires_grad_(False)
    size = getattr(graph.backbone, 'img_size', None) or image_size_of(model, getattr(model, 'cfg', None))
    height, width = (size, size) if isinstance(size, int) else size
    out.parent.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        program, batch = _export_program(graph, height, width)
    partial = out.with_name(f'.{out.stem}.{os.getpid()}.part.onnx')
    try:
        torch.onnx.export(
            program,
            (),
            str(partial),
            dynamo=True,
            opset_version=OPSET,
            input_names=['image'],
            output_names=['features'],
            verbose=False,
            external_data=False,
        )
        os.replace(partial, out)
    finally:
        partial.unlink(missing_ok=True)
    return f'image ({batch}, 3, {height}, {width}) RGB from 0 to 255 -> features ({batch}, D)'


def _export_program(graph: nn.Module, height: int, width: int) -> tuple[torch.export.ExportedProgram, str]:
    """Export with a dynamic batch dimension, or with a batch of 1 where a toolbox's backbone fixes it."""
    batch = torch.export.Dim('batch', min=1, max=MAX_BATCH)
    try:
        images = torch.zeros(2, 3, height, width)
        return torch.export.export(graph, (images,), dynamic_shapes={'image': {0: batch}}), 'batch'
    except torch._dynamo.exc.UserError:
        return torch.export.export(graph, (torch.zeros(1, 3, height, width),)), '1'
