"""Architectures, outputs, freezing and layer depths shared by the vision transformers."""

from collections.abc import Sequence

from mmengine.model import BaseModule
from torch import Tensor, nn

from mmssl.layers.patch import pair


def _sizes(embed_dims: int, num_layers: int, num_heads: int) -> dict:
    return dict(
        embed_dims=embed_dims, num_layers=num_layers, num_heads=num_heads, feedforward_channels=4 * embed_dims
    )


# 'small' is DeiT-S, as in most packages; mmpretrain's 'small' has 768 channels and 8 layers
TINY = _sizes(192, 12, 3)
SMALL = _sizes(384, 12, 6)
BASE = _sizes(768, 12, 12)
LARGE = _sizes(1024, 24, 16)
HUGE = _sizes(1280, 32, 16)
ARCHS = {
    **dict.fromkeys(('t', 'tiny', 'deit-t', 'deit-tiny'), TINY),
    **dict.fromkeys(('s', 'small', 'deit-s', 'deit-small'), SMALL),
    **dict.fromkeys(('b', 'base', 'deit-b', 'deit-base'), BASE),
    **dict.fromkeys(('l', 'large'), LARGE),
    **dict.fromkeys(('h', 'huge'), HUGE),
}
OUT_TYPES = ('featmap', 'cls_token', 'avg_featmap', 'raw')


def resolve_arch(arch: str | dict) -> dict:
    """Return the sizes of an architecture that is given by name or as a dict.

    Raises:
        ValueError: The name is unknown, or the dict does not have exactly the four sizes.
    """
    if isinstance(arch, str):
        if arch.lower() not in ARCHS:
            raise ValueError(
                f'arch {arch!r} is unknown; one of {", ".join(ARCHS)}, or a dict of '
                'embed_dims, num_layers, num_heads, feedforward_channels'
            )
        return dict(ARCHS[arch.lower()])
    if set(arch) != set(BASE):
        raise ValueError(f'arch needs exactly the keys {sorted(BASE)}, got {sorted(arch)}')
    return dict(arch)


class BaseViT(BaseModule):
    """Base class of vision transformers with the argument and parameter names of mmpretrain.

    Args:
        arch: Name of an architecture, or a dict of sizes.
        img_size: Side of the images in pixels, or (height, width).
        out_indices: Layers whose output is returned; negative indices count from the end.
        out_type: One of :data:`OUT_TYPES`.
        final_norm: Whether there is a layer norm (``ln1``) after the last layer.
        init_cfg: Initialisation in mmengine's form.

    Attributes:
        COMPILED_BLOCKS: See :mod:`mmssl.engine.compiling`.
        STEM: Names of parameters before the first layer, besides the patch embedding.
        FINAL: Names of modules that are frozen together with the last layer.
        host_syncs: How often a training step may wait for the GPU in it.
    """

    COMPILED_BLOCKS: tuple[str, ...] = ('layers',)
    STEM: tuple[str, ...] = ('cls_token',)
    FINAL: tuple[str, ...] = ('ln1', 'ln2')
    num_extra_tokens = 1
    host_syncs = 0

    def __init__(
        self,
        arch: str | dict,
        img_size: int | tuple[int, int],
        out_indices: int | Sequence[int],
        out_type: str,
        final_norm: bool,
        init_cfg: dict | list | None = None,
    ):
        super().__init__(init_cfg)
        if out_type not in OUT_TYPES:
            raise ValueError(f'out_type {out_type!r} is unknown; one of {", ".join(OUT_TYPES)}')
        self.arch_settings = resolve_arch(arch)
        self.embed_dims = self.arch_settings['embed_dims']
        self.num_layers = self.arch_settings['num_layers']
        self.img_size = pair(img_size)
        self.out_type = out_type
        self.final_norm = final_norm
        self.frozen_stages = -1
        indices = [out_indices] if isinstance(out_indices, int) else list(out_indices)
        self.out_indices = [index + self.num_layers if index < 0 else index for index in indices]
        if not all(0 <= index < self.num_layers for index in self.out_indices):
            raise ValueError(f'out_indices {indices} are not layers of a ViT of {self.num_layers} layers')

    def _add_norms(self, eps: float) -> None:
        if self.final_norm:
            self.ln1 = nn.LayerNorm(self.embed_dims, eps=eps)
        if self.out_type == 'avg_featmap':
            self.ln2 = nn.LayerNorm(self.embed_dims, eps=eps)

    def reset_parameters(self) -> None:
        """Draw the initial weights."""
        raise NotImplementedError

    def init_weights(self) -> None:
        """Draw the initial weights again; an ``init_cfg`` of type 'Pretrained' is applied afterwards."""
        self.reset_parameters()
        super().init_weights()

    def _freeze(self) -> None:
        if self.frozen_stages < 0:
            return
        frozen = [self.patch_embed, *self.layers[: self.frozen_stages]]
        if self.frozen_stages >= self.num_layers:
            modules = (getattr(self, name, None) for name in self.FINAL)
            frozen += [module for module in modules if module is not None]
        for module in frozen:
            module.eval().requires_grad_(False)
        for name in self.STEM:
            if getattr(self, name) is not None:
                getattr(self, name).requires_grad_(False)

    def train(self, mode: bool = True):
        """Set the mode as ``Module.train`` does; frozen stages stay in evaluation mode."""
        super().train(mode)
        self._freeze()
        return self

    def _output(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        if self.out_type == 'raw':
            return tokens
        if self.out_type == 'cls_token':
            return tokens[:, 0]
        patches = tokens[:, self.num_extra_tokens :]
        if self.out_type == 'avg_featmap':
            return self.ln2(patches.mean(dim=1))
        return patches.transpose(1, 2).unflatten(2, grid)

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Return the depth of a parameter, for layer-wise learning rates.

        Args:
            param_name: Name of the parameter.
            prefix: Prefix of the names of this network's parameters.

        Returns:
            (depth, number of depths). The stem has depth 0; norms, head and all other parameters have the
            last one.
        """
        num_depths = self.num_layers + 2
        name = param_name[len(prefix) :]
        if not param_name.startswith(prefix):
            return num_depths - 1, num_depths
        if name in self.STEM or name.startswith('patch_embed'):
            return 0, num_depths
        if name.startswith('layers.'):
            return int(name.split('.')[1]) + 1, num_depths
        return num_depths - 1, num_depths
