"""Backbones for other libraries: timm, torchvision, Hugging Face, ONNX. Names of weights are mapped by :mod:`mmssl.convert`."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

TARGETS = ('timm', 'torchvision', 'hf', 'safetensors', 'onnx')
KINDS = {'ViT': 'vit', 'VisionTransformer': 'vit', 'ResNet': 'resnet', 'MobileNetV2': 'mobilenetv2'}
# target -> kind of backbone -> family of mmssl.convert
FAMILIES = {
    'timm': {'vit': 'timm-vit', 'resnet': 'torchvision-resnet'},
    'torchvision': {'resnet': 'torchvision-resnet', 'mobilenetv2': 'mobilenetv2'},
    'hf': {'vit': 'hf-vit'},
}
WEIGHT_FILES = ('.pth', '.pt', '.safetensors')
OPSET = 18


def export_backbone(model: nn.Module, out: str | os.PathLike, to: str, force: bool = False) -> str:
    """Write the backbone of a model in the form of another library.

    A folder holds what the library itself opens: ``timm.create_model('local-dir:OUT', pretrained=True)`` and
    ``transformers.ViTModel.from_pretrained('OUT', add_pooling_layer=False)``. A file that ends in .pth or
    .safetensors holds the weights alone.

    Args:
        model: of :func:`mmssl.apis.get_model`, or a bare backbone.
        out: a folder, or a file of weights, for 'timm' and 'hf'; a file for the others.
        to: 'timm' (ViT, ResNet), 'torchvision' (ResNet, MobileNetV2; without classifier), 'hf' (ViT),
            'safetensors' (the host's names), 'onnx' (images in, pooled features out).
        force: replace ``out`` where it is a file.

    Returns:
        what was written and how to open it.

    Raises:
        ValueError: an unknown target, a backbone that the library does not have, a name that does not fit the
            target; what to do.
        FileExistsError: ``out`` exists, and is a folder or not to be replaced.

    Examples:
        >>> from mmssl.apis import export_backbone, get_model
        >>> export_backbone(get_model('mae_vit-b_8xb512', 'epoch_300.pth'), 'mae-vit-b', 'timm')
    """
    from mmssl.commands.convert import write_weights
    from mmssl.hints import nearest

    if to not in TARGETS:
        raise ValueError(f'no target {to!r}{nearest(str(to), TARGETS)}; one of {", ".join(TARGETS)}')
    out, backbone = Path(out), getattr(model, 'backbone', model)
    kind = kind_of(backbone)
    is_file = _check_name(out, to, force)
    if to == 'onnx':
        return _export_onnx(model, out)
    weights = dict(backbone.state_dict())
    if to == 'safetensors':
        write_weights(weights, str(out))
        return f"{len(weights)} weights in the host's names: init_cfg=dict(type='Pretrained', checkpoint={str(out)!r})"
    weights = _renamed(backbone, kind, to, weights)
    if to == 'torchvision':
        write_weights(weights, str(out))
        name, last = (f'resnet{backbone.depth}', 'fc') if kind == 'resnet' else ('mobilenet_v2', 'classifier')
        return (
            f'{len(weights)} weights: model = torchvision.models.{name}(); model.{last} = torch.nn.Identity(); '
            f'model.load_state_dict({_opened(out)})'
        )
    if is_file:
        write_weights(weights, str(out))
        return (
            f'{len(weights)} weights of {_architecture(backbone, kind, to)}: load_state_dict({_opened(out)})'
        )
    config = (_timm_config if to == 'timm' else _hf_config)(model, backbone, kind)
    write_weights(weights, str(out / 'model.safetensors'))
    _write_json(out / 'config.json', config)
    if to == 'timm':
        return f"timm.create_model('local-dir:{out}', pretrained=True, num_classes=0)"
    _write_json(out / 'preprocessor_config.json', _hf_preprocessor(model, backbone))
    return f"transformers.ViTModel.from_pretrained('{out}', add_pooling_layer=False)"


def kind_of(backbone: nn.Module) -> str | None:
    """'vit', 'resnet' or 'mobilenetv2' by the class of a backbone or of its bases; None for another."""
    names = [base.__name__ for base in type(backbone).__mro__]
    if any(name.startswith('BEiT') for name in names):
        return None  # a ViT by its bases, with relative positions
    return next((KINDS[name] for name in names if name in KINDS), None)


def _check_name(out: Path, to: str, force: bool) -> bool:
    """Whether a file of weights is asked for; ValueError where the name is none for the target."""
    if out.is_dir() or (out.exists() and not force):
        cure = 'name another folder' if out.is_dir() else '--force (in Python force=True) replaces it'
        raise FileExistsError(f'{out} exists; {cure}')
    ending = out.suffix.lower()
    wanted = {'onnx': ('.onnx',), 'safetensors': ('.safetensors',), 'torchvision': WEIGHT_FILES}.get(to)
    if wanted and ending not in wanted:
        raise ValueError(f'{out}: give a name that ends in {" or ".join(wanted)} for {to}')
    return ending in WEIGHT_FILES


def _renamed(backbone: nn.Module, kind: str | None, to: str, weights: dict) -> dict:
    """The weights in the library's names; ValueError where it has no such network."""
    from mmssl.convert import to_official

    name = type(backbone).__name__
    if kind not in FAMILIES[to]:
        targets = [target for target, kinds in FAMILIES.items() if kind in kinds] + ['safetensors', 'onnx']
        raise ValueError(
            f'{to} takes {" and ".join(FAMILIES[to])} here, not {name}; what it can be exported to: {", ".join(targets)}'
        )
    if kind == 'resnet' and any(
        block.conv2.stride == (1, 1) and block.conv1.stride != (1, 1) for block in _bottlenecks(backbone)
    ):
        raise ValueError(
            f"{name} has style='caffe' (strides in the 1x1 convolutions), which {to} has not: the features would differ"
        )
    if kind == 'resnet' and (
        max(layer.dilation[0] for layer in _convolutions(backbone)) > 1
        or tuple(backbone.strides) != (1, 2, 2, 2)
    ):
        raise ValueError(
            f'{name} has strides {tuple(backbone.strides)} and dilations {tuple(backbone.dilations)}, with which {to} would '
            'compute something else; export it from the pre-training config, or with --cfg-options model.backbone.strides=...'
        )
    if kind == 'resnet' and backbone.conv1.out_channels != 64:
        raise ValueError(
            f'{name} has {backbone.conv1.out_channels} channels in its stem, and those of {to} have 64'
        )
    if kind == 'vit' and not (hasattr(backbone, 'ln1') or hasattr(backbone, 'ln2')):
        raise ValueError(
            f'{name} has no norm after its last layer (final_norm=False), and those of {to} have one'
        )
    try:
        return to_official(FAMILIES[to][kind], weights, prefix='')
    except ValueError as error:
        raise ValueError(f'{name} is no {_architecture(backbone, kind, to)}: {error}') from error


def _convolutions(backbone: nn.Module) -> list[nn.Conv2d]:
    return [module for module in backbone.modules() if isinstance(module, nn.Conv2d)]


def _bottlenecks(backbone: nn.Module) -> list[nn.Module]:
    return [module for module in backbone.modules() if hasattr(module, 'conv3') and hasattr(module, 'conv2')]


def _opened(path: Path) -> str:
    return (
        f"safetensors.torch.load_file('{path}')"
        if path.suffix == '.safetensors'
        else f"torch.load('{path}', weights_only=True)"
    )


def _architecture(backbone: nn.Module, kind: str | None, to: str) -> str:
    if kind == 'vit':
        return 'vit_base_patch16_224' if to == 'timm' else 'ViTModel'
    return f'resnet{backbone.depth}' if kind == 'resnet' else 'mobilenet_v2'


def _sizes(backbone: nn.Module) -> dict[str, Any]:
    """What a ViT is made of."""
    height, width = backbone.img_size
    projection = backbone.patch_embed.projection
    rows, columns = projection.kernel_size
    if rows != columns:
        raise ValueError(f'patches of {rows}x{columns} pixels; the other libraries have square ones')
    layer = backbone.layers[0]
    hidden = dict(layer.named_parameters())['ffn.layers.0.0.weight'].shape[0]
    return dict(
        img_size=height if height == width else (height, width),
        patch_size=rows,
        embed_dim=backbone.embed_dims,
        depth=len(backbone.layers),
        num_heads=layer.attn.num_heads,
        hidden=hidden,
        in_chans=projection.in_channels,
    )


def _statistics(model: nn.Module) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of RGB pixels, from 0 to 1: of the model's preprocessor, or ImageNet's."""
    preprocessor: Any = getattr(model, 'data_preprocessor', None)
    if getattr(preprocessor, 'mean', None) is None:
        return [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    mean, std = (
        [round(float(value) / 255, 6) for value in part.flatten()]
        for part in (preprocessor.mean, preprocessor.std)
    )
    return mean, std


def _timm_config(model: nn.Module, backbone: nn.Module, kind: str | None) -> dict:
    mean, std = _statistics(model)
    shared = dict(mean=mean, std=std, interpolation='bicubic', crop_pct=0.875, num_classes=0)
    if kind == 'resnet':
        features = (
            backbone.feat_dim if hasattr(backbone, 'feat_dim') else 512 * (4 if _bottlenecks(backbone) else 1)
        )
        return dict(
            architecture=f'resnet{backbone.depth}',
            num_classes=0,
            num_features=features,
            pretrained_cfg=dict(
                shared, input_size=[3, 224, 224], pool_size=[7, 7], first_conv='conv1', classifier='fc'
            ),
        )
    sizes = _sizes(backbone)
    if _eps(backbone) != 1e-6:
        raise ValueError(f"layer norms with eps={_eps(backbone)}; timm's have 1e-6")
    pooled = not hasattr(backbone, 'ln1')
    arguments = {
        key: sizes[key] for key in ('img_size', 'patch_size', 'embed_dim', 'depth', 'num_heads', 'in_chans')
    }
    side = sizes['img_size'] if isinstance(sizes['img_size'], tuple) else (sizes['img_size'],) * 2
    return dict(
        architecture='vit_base_patch16_224',
        num_classes=0,
        num_features=sizes['embed_dim'],
        model_args=dict(
            arguments,
            mlp_ratio=sizes['hidden'] / sizes['embed_dim'],
            global_pool='avg' if pooled else 'token',
        ),
        pretrained_cfg=dict(
            shared,
            input_size=[sizes['in_chans'], *side],
            fixed_input_size=True,
            pool_size=None,
            first_conv='patch_embed.proj',
            classifier='head',
        ),
    )


def _eps(backbone: nn.Module) -> float:
    return getattr(backbone, 'ln1' if hasattr(backbone, 'ln1') else 'ln2').eps


def _hf_config(model: nn.Module, backbone: nn.Module, kind: str | None) -> dict:
    sizes = _sizes(backbone)
    return dict(
        architectures=['ViTModel'],
        model_type='vit',
        hidden_size=sizes['embed_dim'],
        num_hidden_layers=sizes['depth'],
        num_attention_heads=sizes['num_heads'],
        intermediate_size=sizes['hidden'],
        hidden_act='gelu',
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        layer_norm_eps=_eps(backbone),
        image_size=sizes['img_size'],
        patch_size=sizes['patch_size'],
        num_channels=sizes['in_chans'],
        qkv_bias=True,
        torch_dtype='float32',
    )


def _hf_preprocessor(model: nn.Module, backbone: nn.Module) -> dict:
    mean, std = _statistics(model)
    height, width = backbone.img_size
    return dict(
        image_processor_type='ViTImageProcessor',
        do_resize=True,
        size=dict(height=height, width=width),
        resample=3,
        do_rescale=True,
        rescale_factor=1 / 255,
        do_normalize=True,
        image_mean=mean,
        image_std=std,
    )


def _write_json(path: Path, content: dict) -> None:
    from mmssl.checkpoint import write_text

    write_text(path, json.dumps(content, indent=2) + '\n')


class FeatureGraph(nn.Module):
    """Normalise, encode, average over the places.

    Args:
        model: with ``backbone`` and ``data_preprocessor``, or a bare backbone.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.backbone = getattr(model, 'backbone', model)
        self.extra = getattr(self.backbone, 'num_extra_tokens', 1)
        mean, std = (torch.tensor(part).view(-1, 1, 1) * 255 for part in _statistics(model))
        self.register_buffer('mean', mean)
        self.register_buffer('std', std)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) RGB pixels from 0 to 255, to (B, D)."""
        from mmssl.evaluation.features import pool_features

        return pool_features(self.backbone((image - self.mean) / self.std), 'avg', self.extra)


def _export_onnx(model: nn.Module, out: Path) -> str:
    import copy

    from mmssl.evaluation.features import image_size_of

    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise ImportError('ONNX export needs two packages: pip install onnx onnxscript') from None
    graph = FeatureGraph(copy.deepcopy(model)).float().cpu().eval().requires_grad_(False)
    size = getattr(graph.backbone, 'img_size', None) or image_size_of(model, getattr(model, 'cfg', None))
    height, width = (size, size) if isinstance(size, int) else size
    out.parent.mkdir(parents=True, exist_ok=True)
    batch = 'batch'
    with torch.no_grad():
        try:
            program = torch.export.export(
                graph,
                (torch.zeros(2, 3, height, width),),
                dynamic_shapes={'image': {0: torch.export.Dim('batch', min=1, max=1 << 12)}},
            )
        except torch._dynamo.exc.UserError:  # a host's code that fixes the batch
            program, batch = torch.export.export(graph, (torch.zeros(1, 3, height, width),)), '1'
    part = out.with_name(f'.{out.stem}.{os.getpid()}.part.onnx')
    try:
        torch.onnx.export(
            program,
            (),
            str(part),
            dynamo=True,
            opset_version=OPSET,
            input_names=['image'],
            output_names=['features'],
            verbose=False,
            external_data=False,
        )
        os.replace(part, out)
    finally:
        part.unlink(missing_ok=True)
    return f'image ({batch}, 3, {height}, {width}) RGB from 0 to 255 -> features ({batch}, D)'
