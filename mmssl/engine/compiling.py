"""``torch.compile`` for training: the repeated blocks of a network, or the forward pass of its backbone.

A module names its repeated blocks in the class attribute ``COMPILED_BLOCKS``, a tuple of names of its module
lists. All blocks of a kind share one graph, so that compiling takes seconds however deep the network is. A
backbone without such blocks is compiled as a whole. The training step is never compiled: losses, matching and
simulated clicks read values.
"""

import logging
from typing import Any

from mmengine.logging import print_log
from torch import nn

from mmssl.engine.bare_model import bare_model

BACKBONES = ('backbone', 'image_encoder')


def compile_model(model: nn.Module, backend: Any = 'inductor') -> str:
    """Compile blocks and backbones of a model in place; names of parameters stay as they are.

    Sizes of batches and images are variables of the graphs, so that another size needs no other graph.

    Args:
        model: A model of any toolbox, or a wrapper of one.
        backend: Backend of ``torch.compile``.

    Returns:
        What is compiled, for the log.

    Raises:
        ValueError: The model has neither a backbone nor modules with ``COMPILED_BLOCKS``.
    """
    model = bare_model(model)
    blocks = [block for module in model.modules() for block in blocks_of(module)]
    backbones = [backbone for backbone in _backbones(model) if not any(map(blocks_of, backbone.modules()))]
    if not blocks and not backbones:
        raise ValueError(
            f'{type(model).__name__} has no backbone and no blocks to compile; train without --compile'
        )
    for module in (*blocks, *backbones):
        module.compile(backend=backend, dynamic=True)
    _warn_of_recompilations()
    names = [f'{len(blocks)} blocks'] * bool(blocks)
    names += [f'the forward pass of {type(backbone).__name__}' for backbone in backbones]
    return ', '.join(dict.fromkeys(names))


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """Return the repeated blocks that a module itself names in ``COMPILED_BLOCKS``."""
    return [block for name in getattr(module, 'COMPILED_BLOCKS', ()) for block in getattr(module, name)]


def _backbones(model: nn.Module) -> list[nn.Module]:
    """Return the backbones of a model, and their momentum copies."""
    backbones = [getattr(model, name, None) for name in BACKBONES]
    types = {type(backbone) for backbone in backbones if isinstance(backbone, nn.Module)}
    return [module for module in model.modules() if type(module) in types]


class _RecompileLimit(logging.Filter):
    """Replaces torch's warning of many lines by one line with a remedy."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Pass on every other record."""
        if 'torch._dynamo hit config.' not in str(record.msg):
            return True
        _, limit, function = (*record.args, '', '', '')[:3]  # type: ignore[misc]
        times = 'once' if limit == 1 else f'{limit} times'
        print_log(
            f'torch.compile: {function} was compiled {times}, which is the limit, and further variants of it '
            'run uncompiled; give images one size (a fixed crop, train_dataloader.drop_last=True), or train '
            'without --compile. TORCH_LOGS=recompiles shows the reasons',
            logger='current',
            level=logging.WARNING,
        )
        return False


def _warn_of_recompilations() -> None:
    logger = logging.getLogger('torch._dynamo.convert_frame')
    if not any(isinstance(each, _RecompileLimit) for each in logger.filters):
        logger.addFilter(_RecompileLimit())
