"""Configuration files of exported backbones, as timm and Hugging Face read them."""

from typing import Any, NamedTuple

from torch import nn


class ViTSizes(NamedTuple):
    """Sizes of a vision transformer, by timm's names."""

    img_size: tuple[int, int]
    patch_size: int
    embed_dim: int
    depth: int
    num_heads: int
    hidden_dim: int
    in_chans: int

    @property
    def square(self) -> int | tuple[int, int]:
        """Image size as one number if the image is square."""
        height, width = self.img_size
        return height if height == width else self.img_size


def vit_sizes(backbone: nn.Module) -> ViTSizes:
    """Return the sizes of a ViT.

    Raises:
        ValueError: Its patches are not square.
    """
    projection = backbone.patch_embed.projection
    rows, columns = projection.kernel_size
    if rows != columns:
        raise ValueError(f'patches of {rows}x{columns} pixels; the other libraries have square ones')
    layer = backbone.layers[0]
    return ViTSizes(
        img_size=tuple(backbone.img_size),
        patch_size=rows,
        embed_dim=backbone.embed_dims,
        depth=len(backbone.layers),
        num_heads=layer.attn.num_heads,
        hidden_dim=dict(layer.named_parameters())['ffn.layers.0.0.weight'].shape[0],
        in_chans=projection.in_channels,
    )


def bottlenecks(backbone: nn.Module) -> list[nn.Module]:
    """Return the bottleneck blocks of a ResNet."""
    return [module for module in backbone.modules() if hasattr(module, 'conv3') and hasattr(module, 'conv2')]


def pixel_statistics(model: nn.Module) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of RGB pixels in [0, 1]: the preprocessor's, or else ImageNet's."""
    preprocessor: Any = getattr(model, 'data_preprocessor', None)
    if getattr(preprocessor, 'mean', None) is None:
        return [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    mean = [round(float(value) / 255, 6) for value in preprocessor.mean.flatten()]
    std = [round(float(value) / 255, 6) for value in preprocessor.std.flatten()]
    return mean, std


def _norm_eps(backbone: nn.Module) -> float:
    return getattr(backbone, 'ln1' if hasattr(backbone, 'ln1') else 'ln2').eps


def timm_config(model: nn.Module, backbone: nn.Module, architecture: str | None) -> dict:
    """Return the content of timm's config.json.

    Raises:
        ValueError: timm's network has other constants.
    """
    mean, std = pixel_statistics(model)
    preprocessing = dict(mean=mean, std=std, interpolation='bicubic', crop_pct=0.875, num_classes=0)
    if architecture == 'resnet':
        return _timm_resnet_config(backbone, preprocessing)
    if _norm_eps(backbone) != 1e-6:
        raise ValueError(f"layer norms with eps={_norm_eps(backbone)}; timm's have 1e-6")
    sizes = vit_sizes(backbone)
    is_pooled = not hasattr(backbone, 'ln1')
    return dict(
        architecture='vit_base_patch16_224',
        num_classes=0,
        num_features=sizes.embed_dim,
        model_args=dict(
            img_size=sizes.square,
            patch_size=sizes.patch_size,
            embed_dim=sizes.embed_dim,
            depth=sizes.depth,
            num_heads=sizes.num_heads,
            in_chans=sizes.in_chans,
            mlp_ratio=sizes.hidden_dim / sizes.embed_dim,
            global_pool='avg' if is_pooled else 'token',
        ),
        pretrained_cfg=dict(
            preprocessing,
            input_size=[sizes.in_chans, *sizes.img_size],
            fixed_input_size=True,
            pool_size=None,
            first_conv='patch_embed.proj',
            classifier='head',
        ),
    )


def timm_call(config: dict) -> str:
    """Return the call of ``timm.create_model`` that builds the network of a config of :func:`timm_config`."""
    arguments = {**config.get('model_args', {}), 'num_classes': config['num_classes']}
    return f'timm.create_model({_arguments(config["architecture"], arguments)})'


def huggingface_call(config: dict) -> str:
    """Return the call that builds the network of a config of :func:`huggingface_config`."""
    arguments = {key: value for key, value in config.items() if key not in _HUGGINGFACE_FILE}
    config_call = f'transformers.ViTConfig({_arguments(None, arguments)})'
    return f'transformers.ViTModel({config_call}, add_pooling_layer=False)'


# entries of config.json that are no arguments of ViTConfig
_HUGGINGFACE_FILE = ('architectures', 'model_type', 'torch_dtype')


def _arguments(name: str | None, arguments: dict) -> str:
    named = [f'{key}={value!r}' for key, value in arguments.items()]
    return ', '.join([repr(name), *named] if name is not None else named)


def _timm_resnet_config(backbone: nn.Module, preprocessing: dict) -> dict:
    if hasattr(backbone, 'feat_dim'):
        features = backbone.feat_dim
    else:
        features = 512 * (4 if bottlenecks(backbone) else 1)
    channels = backbone.conv1.in_channels
    return dict(
        architecture=f'resnet{backbone.depth}',
        num_classes=0,
        num_features=features,
        model_args=dict(in_chans=channels),
        pretrained_cfg=dict(
            preprocessing,
            input_size=[channels, 224, 224],
            pool_size=[7, 7],
            first_conv='conv1',
            classifier='fc',
        ),
    )


def huggingface_config(backbone: nn.Module) -> dict:
    """Return the content of config.json of a transformers ViTModel."""
    sizes = vit_sizes(backbone)
    return dict(
        architectures=['ViTModel'],
        model_type='vit',
        hidden_size=sizes.embed_dim,
        num_hidden_layers=sizes.depth,
        num_attention_heads=sizes.num_heads,
        intermediate_size=sizes.hidden_dim,
        hidden_act='gelu',
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        layer_norm_eps=_norm_eps(backbone),
        image_size=sizes.square,
        patch_size=sizes.patch_size,
        num_channels=sizes.in_chans,
        qkv_bias=True,
        torch_dtype='float32',
    )


def huggingface_preprocessor(model: nn.Module, backbone: nn.Module) -> dict:
    """Return the content of preprocessor_config.json of a transformers ViTModel."""
    mean, std = pixel_statistics(model)
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
