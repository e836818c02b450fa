"""Export of backbones to timm, torchvision, Hugging Face, safetensors and ONNX."""

import os
from pathlib import Path

from torch import nn

from mmssl.apis.export_configs import (
    bottlenecks,
    huggingface_call,
    huggingface_config,
    huggingface_preprocessor,
    timm_call,
    timm_config,
)
from mmssl.checkpoint.files import write_json
from mmssl.checkpoint.weight_files import write_weights
from mmssl.hints import nearest

TARGETS = ('timm', 'torchvision', 'hf', 'safetensors', 'onnx')
ARCHITECTURES = {'ViT': 'vit', 'VisionTransformer': 'vit', 'ResNet': 'resnet', 'MobileNetV2': 'mobilenetv2'}
# target -> architecture -> family of mmssl.convert
FAMILIES = {
    'timm': {'vit': 'timm-vit', 'resnet': 'torchvision-resnet'},
    'torchvision': {'resnet': 'torchvision-resnet', 'mobilenetv2': 'mobilenetv2'},
    'hf': {'vit': 'hf-vit'},
}
WEIGHT_FILES = ('.pth', '.pt', '.safetensors')


def export_backbone(model: nn.Module, out: str | os.PathLike, to: str, force: bool = False) -> str:
    """Write the backbone of a model in the format of another library.

    A folder contains what the library itself opens: ``timm.create_model('local-dir:OUT', pretrained=True)``
    and ``transformers.ViTModel.from_pretrained('OUT', add_pooling_layer=False)``. A file that ends in .pth or
    .safetensors contains the weights alone; a .json beside it has the arguments of the network.

    Args:
        model: Model from :func:`mmssl.apis.get_model`, or a bare backbone.
        out: Folder, or file of weights, for 'timm' and 'hf'; a file for the others.
        to: 'timm' (ViT, ResNet), 'torchvision' (ResNet, MobileNetV2; without classifier), 'hf' (ViT),
            'safetensors' (the toolbox's names), 'onnx' (images in, pooled features out).
        force: Replace ``out`` if it is a file.

    Returns:
        What was written and how to open it.

    Raises:
        ValueError: The target is unknown, the library does not have such a backbone, or the name does not fit
            the target.
        FileExistsError: ``out`` exists, and is a folder or not to be replaced.

    Examples:
        >>> from mmssl.apis import export_backbone, get_model
        >>> export_backbone(get_model('mae_vit-base-p16_8xb512-amp-coslr-300e_in1k', 'epoch_300.pth'),
        'mae-vit-b', 'timm')
    """
    if to not in TARGETS:
        raise ValueError(f'no target {to!r}{nearest(str(to), TARGETS)}; one of {", ".join(TARGETS)}')
    out = Path(out)
    backbone = getattr(model, 'backbone', model)
    is_file = _check_name(out, to, force)
    if to == 'onnx':
        from mmssl.apis.export_onnx import export_onnx

        return export_onnx(model, out)
    weights = backbone.state_dict()
    if to == 'safetensors':
        write_weights(weights, str(out))
        return (
            f"{len(weights)} weights in the toolbox's names: "
            f"init_cfg=dict(type='Pretrained', checkpoint={str(out)!r})"
        )
    architecture = architecture_of(backbone)
    weights = _renamed(backbone, architecture, to, dict(weights))
    if to == 'torchvision':
        write_weights(weights, str(out))
        call, last = f'mobilenet_v2(width_mult={_width(backbone)!r})', 'classifier'
        if architecture == 'resnet':
            call, last = f'resnet{backbone.depth}()', 'fc'
        return (
            f'{len(weights)} weights: model = torchvision.models.{call}; model.{last} = torch.nn.Identity(); '
            f'model.load_state_dict({_loading_code(out)})'
        )
    config = timm_config(model, backbone, architecture) if to == 'timm' else huggingface_config(backbone)
    if is_file:
        call = timm_call(config) if to == 'timm' else huggingface_call(config)
        write_weights(weights, str(out))
        write_json(out.with_suffix('.json'), config)
        return f'{len(weights)} weights: model = {call}; model.load_state_dict({_loading_code(out)})'
    write_weights(weights, str(out / 'model.safetensors'))
    write_json(out / 'config.json', config)
    if to == 'timm':
        return f"timm.create_model('local-dir:{out}', pretrained=True, num_classes=0)"
    write_json(out / 'preprocessor_config.json', huggingface_preprocessor(model, backbone))
    return f"transformers.ViTModel.from_pretrained('{out}', add_pooling_layer=False)"


def architecture_of(backbone: nn.Module) -> str | None:
    """Return 'vit', 'resnet' or 'mobilenetv2' by the class of a backbone or its bases; None for others."""
    names = [base.__name__ for base in type(backbone).__mro__]
    if any(name.startswith('BEiT') for name in names):
        return None  # a ViT by its bases, but with relative positions
    return next((ARCHITECTURES[name] for name in names if name in ARCHITECTURES), None)


def _check_name(out: Path, to: str, force: bool) -> bool:
    """Return True if a file of weights is to be written.

    Raises:
        FileExistsError: The output exists.
        ValueError: The suffix does not fit the target.
    """
    if out.is_dir():
        raise FileExistsError(f'{out} exists; name another folder')
    if out.exists() and not force:
        raise FileExistsError(f'{out} exists; --force (in Python force=True) replaces it')
    suffix = out.suffix.lower()
    allowed = {'onnx': ('.onnx',), 'safetensors': ('.safetensors',), 'torchvision': WEIGHT_FILES}.get(to)
    if allowed and suffix not in allowed:
        raise ValueError(f'{out}: give a name that ends in {" or ".join(allowed)} for {to}')
    return suffix in WEIGHT_FILES


def _renamed(backbone: nn.Module, architecture: str | None, to: str, weights: dict) -> dict:
    """Return the weights in the library's names.

    Raises:
        ValueError: The library has no such network.
    """
    from mmssl.convert import to_official

    name = type(backbone).__name__
    if architecture not in FAMILIES[to]:
        targets = [target for target, families in FAMILIES.items() if architecture in families]
        raise ValueError(
            f'{to} takes {" and ".join(FAMILIES[to])} here, not {name}; it can be exported to: '
            f'{", ".join([*targets, "safetensors", "onnx"])}'
        )
    if architecture == 'resnet':
        _check_resnet(backbone, name, to)
    if architecture == 'vit' and not (hasattr(backbone, 'ln1') or hasattr(backbone, 'ln2')):
        raise ValueError(
            f'{name} has no norm after its last layer (final_norm=False), and those of {to} have one'
        )
    try:
        return to_official(FAMILIES[to][architecture], weights, prefix='')
    except ValueError as error:
        library_name = _library_name(backbone, architecture, to)
        raise ValueError(f'{name} is no {library_name}: {error}') from error


def _check_resnet(backbone: nn.Module, name: str, to: str) -> None:
    """Raise ValueError for variants whose features the library would compute differently."""
    if any(block.conv2.stride == (1, 1) and block.conv1.stride != (1, 1) for block in bottlenecks(backbone)):
        raise ValueError(
            f"{name} has style='caffe' (strides in the 1x1 convolutions), which {to} has not: "
            'the features would differ'
        )
    convolutions = [module for module in backbone.modules() if isinstance(module, nn.Conv2d)]
    dilated = max(convolution.dilation[0] for convolution in convolutions) > 1
    if dilated or tuple(backbone.strides) != (1, 2, 2, 2):
        raise ValueError(
            f'{name} has strides {tuple(backbone.strides)} and dilations {tuple(backbone.dilations)}, with '
            'which '
            f'{to} would compute something else; export it from the pre-training config, or with '
            '--cfg-options model.backbone.strides=...'
        )
    if backbone.conv1.out_channels != 64:
        raise ValueError(
            f'{name} has {backbone.conv1.out_channels} channels in its stem, and those of {to} have 64'
        )


def _width(backbone: nn.Module) -> float:
    """Return the factor of the channels of a MobileNetV2."""
    return float(getattr(backbone, 'widen_factor', 1.0))


def _loading_code(path: Path) -> str:
    if path.suffix == '.safetensors':
        return f"safetensors.torch.load_file('{path}')"
    return f"torch.load('{path}', weights_only=True)"


def _library_name(backbone: nn.Module, architecture: str | None, to: str) -> str:
    """Return the library's name of the network."""
    if architecture == 'vit':
        return 'VisionTransformer of timm' if to == 'timm' else 'ViTModel'
    return f'resnet{backbone.depth}' if architecture == 'resnet' else 'mobilenet_v2'
