"""Traces of modules as ONNX files."""

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmssl.ops.switch import plain_forms

OPSET = 18
INPUT = 'image'
SIZES = {0: 'batch', 2: 'height', 3: 'width'}


def _trunc(g: Any, x: Any) -> Any:
    """Nodes that round towards zero, for which ONNX has no operator."""
    return g.op('Mul', g.op('Sign', x), g.op('Floor', g.op('Abs', x)))


@contextlib.contextmanager
def _own_operators() -> Iterator[None]:
    torch.onnx.register_custom_op_symbolic('aten::trunc', _trunc, OPSET)
    try:
        yield
    finally:
        torch.onnx.unregister_custom_op_symbolic('aten::trunc', OPSET)


def write_graph(
    graph: nn.Module, example: Tensor, path: Path, axes: Mapping[int, str], metadata: Mapping[str, str]
) -> None:
    """Trace a module and write it.

    Args:
        graph: Module from ``image`` to the outputs that its ``names`` list.
        example: (B, 3, H, W), traced.
        path: File to write.
        axes: Axes of the image that may have another length than in the example, and their names.
        metadata: Written into the file.
    """
    import onnx

    # The exporter from torch.export fixes the sizes of maps and the numbers of boxes, which the code of the
    # toolboxes compares; a trace leaves both open, and what it made a constant is found by comparing
    with warnings.catch_warnings(), torch.no_grad(), _own_operators(), plain_forms():
        warnings.simplefilter('ignore')
        torch.onnx.export(
            graph,
            (example,),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=list(graph.names),
            dynamic_axes={INPUT: dict(axes), **_output_axes(graph.names, axes)},
        )
    model = onnx.load(str(path))
    for key, value in metadata.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def _output_axes(names: Any, axes: Mapping[int, str]) -> dict[str, dict[int, str]]:
    """Return the names of the axes of the outputs."""
    if list(names) == ['logits']:
        return {'logits': dict(axes)}
    return {name: {0: 'objects'} for name in names}
