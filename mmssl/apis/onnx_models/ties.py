"""The order of boxes with equal scores."""

import contextlib
import importlib
from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class _StableSort(TorchFunctionMode):
    """Makes every sort a stable one."""

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        if func in (torch.sort, torch.Tensor.sort) and not options.get('stable'):
            options.update(zip(('dim', 'descending'), args[1:], strict=False), stable=True)
            args = args[:1]
        return func(*args, **options)


@contextlib.contextmanager
def ties_by_index() -> Iterator[None]:
    """Sort equal scores by their indices, the lowest first.

    PyTorch leaves their order open (``stable=False``), and so does the compiled NMS of mmcv; ONNX defines it
    for ``TopK``, and onnxruntime has the same for ``NonMaxSuppression``. Anchors on a background of one color
    have scores that are equal to the last bit, and which of two such boxes suppresses the other depends on
    their order.
    """
    from mmssl.hosts.mmcv_ext.nms import nms

    module: Any = importlib.import_module('mmcv.ops.nms')
    compiled = module.ext_module
    module.ext_module = SimpleNamespace(nms=nms)
    try:
        with _StableSort():
            yield
    finally:
        module.ext_module = compiled
