"""Smallest settings of the registered classes of this package, declared beside each class as ``SMALL``.

``tests/test_all_models.py`` builds, runs, saves and copies every registered class; a class of another package
needs an entry there, a method here only its ``SMALL``::

    SMALL = {'SimCLR': Small(dict(backbone=RESNET, neck=dict(type='mmssl.MLP', dims=(64, 16, 8))))}
"""

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn

RESNET = dict(type='mmpretrain.ResNet', depth=18, stem_channels=8, base_channels=8)  # 64 channels
ARCH = dict(embed_dims=32, num_layers=2, num_heads=4, feedforward_channels=64)


def two_views(model: Any, images: Tensor) -> Tensor:
    """Loss of a method of two views."""
    return model.loss([images, images.flip(3)])['loss']


def single_view(model: Any, images: Tensor) -> Tensor:
    """Loss of a method of one view."""
    return model.loss(images)['loss']


def forward(model: nn.Module, images: Tensor) -> Tensor:
    """Output of a module, the last one if there are several."""
    output = model(images)
    return output[-1] if isinstance(output, (tuple, list)) else output


def small_settings_of_methods() -> dict[str, 'Small']:
    """What the modules of this package declare as ``SMALL``, by the name of the class."""
    settings: dict[str, Small] = {}
    package = importlib.import_module(__package__)
    for info in pkgutil.iter_modules(package.__path__, f'{__package__}.'):
        settings.update(getattr(importlib.import_module(info.name), 'SMALL', {}))
    return settings


class Small(NamedTuple):
    """Smallest settings of a class, and a call that gives one tensor.

    Attributes:
        settings: Arguments of the constructor.
        run: Function of the model and images (2, 3, 32, 32) to one tensor. Random draws come from the global
            generators, which are seeded before each call, in the same way whatever the data type of the
            images is. By default the loss of two views.
        shape: Shape of that tensor.
    """

    settings: dict
    run: Callable[[Any, Tensor], Tensor] = two_views
    shape: tuple[int, ...] = ()
