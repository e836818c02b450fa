"""Patches of backbones of the toolboxes for images of any number of channels.

torch and mmengine are imported inside the functions only.
"""

import functools
import inspect
from types import ModuleType
from typing import Any

from mmssl.hosts.patching import listed, when_imported

MOBILE_NETS = tuple(f'{name}.models.backbones.mobilenet_v2' for name in ('mmdet', 'mmseg', 'mmpretrain'))
# whose init_weights loads a file by torch's load_state_dict, and the names of the classes
OWN_LOADERS = {
    'mmdet.models.backbones.swin': 'SwinTransformer',
    'mmseg.models.backbones.swin': 'SwinTransformer',
    'mmseg.models.backbones.beit': 'BEiT',
    'mmseg.models.backbones.mae': 'MAE',
}


@listed(
    reason='MobileNetV2 reads images of three channels only',
    versions='mmdet 3.3 to 3.5.1, mmseg 1.2 to 1.4, mmpretrain 1.2 to 1.5 (OneDL)',
    until='MobileNetV2 has an argument in_channels, as ResNet has',
)
def give_mobilenet_channels() -> None:
    """Give MobileNetV2 of mmdet, mmseg and mmpretrain the argument ``in_channels``."""
    for name in MOBILE_NETS:
        when_imported(name, _add_in_channels)


def _add_in_channels(module: ModuleType) -> None:
    cls: Any = module.MobileNetV2
    original = cls.__init__
    signature = inspect.signature(original)
    if 'in_channels' in signature.parameters:
        return

    @functools.wraps(original)
    def construct(self, *args, in_channels: int = 3, **kwargs):
        original(self, *args, **kwargs)
        if in_channels != 3:
            _replace_stem(self.conv1, in_channels)

    parameter = inspect.Parameter('in_channels', inspect.Parameter.KEYWORD_ONLY, default=3, annotation=int)
    parameters = list(signature.parameters.values())
    has_rest = bool(parameters) and parameters[-1].kind is inspect.Parameter.VAR_KEYWORD
    parameters.insert(len(parameters) - has_rest, parameter)
    construct.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    cls.__init__ = construct


def _replace_stem(stem: Any, in_channels: int) -> None:
    conv = stem.conv
    stem.conv = type(conv)(
        in_channels,
        conv.out_channels,
        conv.kernel_size,
        stride=conv.stride,
        padding=conv.padding,
        bias=conv.bias is not None,
    )
    stem.in_channels = in_channels


@listed(
    reason='init_cfg of type Pretrained does not load weights of RGB into a model of other channels',
    versions='mmengine 0.10.7 to 0.10.12 (OneDL)',
    until='PretrainedInit lets a model fit the weights that it is given',
)
def grow_pretrained_weights() -> None:
    """Grow weights of RGB in backbones of all toolboxes; ``init_cfg`` may say ``bands``."""
    from mmengine.model import weight_init

    class PretrainedInit(weight_init.PretrainedInit):
        """mmengine's PretrainedInit with ``bands``, see :func:`mmssl.checkpoint.grow_channels`."""

        def __init__(self, checkpoint, prefix=None, map_location='cpu', bands=None):
            super().__init__(checkpoint, prefix, map_location)
            self.bands = bands

        def __call__(self, module):
            from mmssl.checkpoint.channels import loading_bands

            with loading_bands(self.bands):
                super().__call__(module)

    weight_init.WEIGHT_INITIALIZERS.register_module('Pretrained', force=True, module=PretrainedInit)
    for name, cls in OWN_LOADERS.items():
        when_imported(name, functools.partial(_grow_on_load, cls_name=cls))


def _grow_on_load(module: ModuleType, cls_name: str) -> None:
    cls: Any = getattr(module, cls_name)
    original = cls.init_weights

    @functools.wraps(original)
    def init_weights(self):
        from mmssl.checkpoint.channels import fit_channels, loading_bands

        settings = self.init_cfg if isinstance(self.init_cfg, dict) else {}
        source = str(settings.get('checkpoint', 'the checkpoint'))
        own = self.load_state_dict

        def load_state_dict(state_dict, *args, **kwargs):
            return own(fit_channels(self, state_dict, source), *args, **kwargs)

        self.load_state_dict = load_state_dict
        try:
            with loading_bands(settings.get('bands')):
                original(self)
        finally:
            del self.load_state_dict

    cls.init_weights = init_weights
