"""Plain Vision Transformer (arXiv:2010.11929)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmssl.layers.base_vit import ARCHS, OUT_TYPES, BaseViT, resolve_arch
from mmssl.layers.lora import add_lora, merge_loaded_lora
from mmssl.layers.patch import PatchEmbed, patch_grid
from mmssl.layers.pos_embed import describe_pos_embed, fit_pos_embed, resize_pos_embed, sincos_2d
from mmssl.layers.rope import AxialRoPE
from mmssl.layers.transformer import TransformerBlock, init_linear_xavier, norm_eps
from mmssl.registry import MODELS

__all__ = ['ARCHS', 'OUT_TYPES', 'ViT', 'resolve_arch']
torch.fx.wrap('resize_pos_embed')  # one node of a graph of torch.fx: it compares sizes


@MODELS.register_module()
class ViT(BaseViT):
    """Vision Transformer with the argument and parameter names of mmpretrain's VisionTransformer.

    Args:
        arch: 'tiny', 'small', 'base', 'large', 'huge' (or their initials), or a dict of ``embed_dims``,
            ``num_layers``, ``num_heads`` and ``feedforward_channels``.
        img_size: Side of the images in pixels, or (height, width). Images of other sizes run with a resized
            position table.
        patch_size: Side of a patch in pixels, or (height, width).
        in_channels: Number of channels of the images.
        out_indices: Layers whose output is returned; negative indices count from the end.
        drop_rate: Dropout rate.
        drop_path_rate: Stochastic depth of the last layer, rising linearly from 0 at the first.
        attn_drop_rate: Dropout rate of the attention weights.
        qkv_bias: Whether the projections to q, k and v have a bias; 'qv_bias' for one of q and v only.
        norm_cfg: ``dict(type='LN', eps=...)``.
        final_norm: Whether there is a layer norm (``ln1``) after the last layer.
        out_type: 'featmap' (B, C, h, w); 'cls_token' (B, C); 'avg_featmap' (B, C), the mean of the patches
            followed by the layer norm ``ln2``; 'raw' (B, 1 + N, C).
        with_cls_token: Whether there is a class token.
        frozen_stages: Number of layers that are frozen together with the stem; with all of them the norms
            are frozen too. -1 freezes nothing.
        interpolate_mode: Interpolation of the position table.
        patch_cfg: Further arguments of the patch projection (``bias``).
        layer_cfgs: Arguments of every :class:`TransformerBlock`, or a list with one dict for each.
        layer_scale_init_value: Initial value of the layer scale of every branch; 0 for none.
        num_registers: Number of register tokens (arXiv:2309.16588), which follow the class token and have no
            position.
        use_abs_pos_emb: Whether there is a position table.
        rope_cfg: Arguments of :class:`~mmssl.layers.rope.AxialRoPE` for rotary positions in every layer; None
            for none.
        with_cp: Whether layers are computed again in the backward pass (activation checkpointing), which
            saves memory.
        lora_cfg: Arguments of :func:`~mmssl.layers.lora.add_lora` to train low-rank updates only; None trains
            the weights.
        init_cfg: Initialisation in mmengine's form; ``dict(type='Pretrained', checkpoint=...,
            prefix='backbone.')`` loads the backbone from the checkpoint of a whole model.
    """

    # unlike mmpretrain's, it works where only mmdet or mmseg is installed, takes rectangular images, and
    # starts from the x-first sine-cosine table of MAE's released code

    # class of the layers
    BLOCK: type[TransformerBlock] = TransformerBlock
    STEM = ('cls_token', 'register_tokens', 'pos_embed')

    def __init__(  # noqa: PLR0913
        self,
        arch: str | dict = 'base',
        img_size: int | tuple[int, int] = 224,
        patch_size: int | tuple[int, int] = 16,
        in_channels: int = 3,
        out_indices: int | Sequence[int] = -1,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        qkv_bias: bool | str = True,
        norm_cfg: dict | None = None,
        final_norm: bool = True,
        out_type: str = 'featmap',
        with_cls_token: bool = True,
        frozen_stages: int = -1,
        interpolate_mode: str = 'bicubic',
        patch_cfg: dict | None = None,
        layer_cfgs: dict | Sequence[dict] | None = None,
        layer_scale_init_value: float = 0.0,
        num_registers: int = 0,
        use_abs_pos_emb: bool = True,
        rope_cfg: dict | None = None,
        with_cp: bool = False,
        lora_cfg: dict | None = None,
        init_cfg: dict | list | None = None,
    ):
        super().__init__(arch, img_size, out_indices, out_type, final_norm, init_cfg)
        if out_type == 'cls_token' and not with_cls_token:
            raise ValueError("out_type 'cls_token' needs with_cls_token=True")
        self.interpolate_mode = interpolate_mode
        self.num_pos_extra_tokens = int(with_cls_token)
        self.num_extra_tokens = self.num_pos_extra_tokens + num_registers
        self.with_cp = with_cp
        eps = norm_eps(norm_cfg)

        self.patch_embed = PatchEmbed(patch_size, in_channels, self.embed_dims, **(patch_cfg or {}))
        self.patch_resolution = patch_grid(*self.img_size, self.patch_embed.patch_size)
        num_patches = self.patch_resolution[0] * self.patch_resolution[1]
        self.cls_token = nn.Parameter(torch.zeros(1, 1, self.embed_dims)) if with_cls_token else None
        self.register_tokens = (
            nn.Parameter(torch.zeros(1, num_registers, self.embed_dims)) if num_registers else None
        )
        self.pos_embed = None
        if use_abs_pos_emb:
            num_positions = self.num_pos_extra_tokens + num_patches
            self.pos_embed = nn.Parameter(torch.zeros(1, num_positions, self.embed_dims))
            self.register_load_state_dict_pre_hook(_fit_own_pos_embed)
            self.register_state_dict_post_hook(_describe_own_pos_embed)
        self.rope = None
        if rope_cfg is not None:
            self.rope = AxialRoPE(self.embed_dims // self.arch_settings['num_heads'], **rope_cfg)
        self.drop_after_pos = nn.Dropout(drop_rate)

        if layer_cfgs is None or isinstance(layer_cfgs, dict):
            layer_cfgs = [layer_cfgs or {}] * self.num_layers
        defaults = dict(
            embed_dims=self.embed_dims,
            num_heads=self.arch_settings['num_heads'],
            feedforward_channels=self.arch_settings['feedforward_channels'],
            qkv_bias=qkv_bias,
            drop_rate=drop_rate,
            attn_drop_rate=attn_drop_rate,
            eps=eps,
            layer_scale_init_value=layer_scale_init_value,
        )
        depth_rates = torch.linspace(0, drop_path_rate, self.num_layers, device='cpu').tolist()
        self.layers = nn.ModuleList(
            self.BLOCK(**{**defaults, 'drop_path_rate': rate, **layer_cfg})
            for rate, layer_cfg in zip(depth_rates, layer_cfgs, strict=True)
        )
        self._add_norms(eps)
        self.reset_parameters()
        self.frozen_stages = frozen_stages
        if lora_cfg is not None:
            add_lora(self, **lora_cfg)
        self.register_load_state_dict_pre_hook(merge_loaded_lora)
        self._freeze()

    def reset_parameters(self) -> None:
        """Draw the initial weights of MAE's released code.

        Xavier-uniform for all layers, N(0, 0.02) for the class token and registers, and the fixed sine-cosine
        table.
        """
        self.apply(init_linear_xavier)
        weight = self.patch_embed.projection.weight
        nn.init.xavier_uniform_(weight.view(weight.shape[0], -1))
        if self.cls_token is not None:
            nn.init.normal_(self.cls_token, std=0.02)
        if self.register_tokens is not None:
            nn.init.normal_(self.register_tokens, std=0.02)
        if self.pos_embed is not None:
            with torch.no_grad():
                table = sincos_2d(self.patch_resolution, self.embed_dims, self.num_pos_extra_tokens)
                self.pos_embed.copy_(table)

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """Return the position table of a grid of patches, (1, class token + rows * columns, C)."""
        return resize_pos_embed(
            self.pos_embed, self.patch_resolution, grid, self.num_pos_extra_tokens, self.interpolate_mode
        )

    def embed(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Embed images (B, 3, H, W): tokens (B, num_extra_tokens + N, C) and the grid of the patches."""
        tokens, grid = self.patch_embed(x)
        return self.prepend_tokens(tokens, grid), grid

    def prepend_tokens(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Add positions to patches (B, N, C), and the class token and registers in front of them."""
        if self.cls_token is not None:
            tokens = torch.cat([self.cls_token.expand(tokens.shape[0], -1, -1), tokens], dim=1)
        if self.pos_embed is not None:
            tokens = tokens + self.positions(grid)
        tokens = self.drop_after_pos(tokens)
        if self.register_tokens is not None:
            leading, patches = tokens.tensor_split([self.num_pos_extra_tokens], dim=1)
            registers = self.register_tokens.expand(tokens.shape[0], -1, -1)
            tokens = torch.cat([leading, registers, patches], dim=1)
        return tokens

    def run_layer(self, layer: nn.Module, tokens: Tensor, *args) -> Tensor:
        """Apply a layer to tokens (B, L, C); with ``with_cp`` its activations are not kept."""
        if self.with_cp and tokens.requires_grad:
            return checkpoint(layer, tokens, *args, use_reentrant=False)
        return layer(tokens, *args)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Encode images.

        Args:
            x: (B, 3, H, W), normalised, with H and W divisible by the patch size.

        Returns:
            The output of every layer in ``out_indices``, in the form of ``out_type``.
        """
        tokens, grid = self.embed(x)
        rope = None if self.rope is None else self.rope(grid, tokens.device)
        outs = []
        for index, layer in enumerate(self.layers):
            tokens = self.run_layer(layer, tokens) if rope is None else self.run_layer(layer, tokens, 0, rope)
            if index == self.num_layers - 1 and self.final_norm:
                tokens = self.ln1(tokens)
            if index in self.out_indices:
                outs.append(self._output(tokens, grid))
        return tuple(outs)


def _fit_own_pos_embed(module: ViT, state_dict: dict, prefix: str, *_) -> None:
    fit_pos_embed(
        state_dict,
        f'{prefix}pos_embed',
        module.pos_embed,
        module.patch_resolution,
        module.num_pos_extra_tokens,
        module.interpolate_mode,
    )


def _describe_own_pos_embed(module: ViT, state_dict: dict, prefix: str, *_) -> None:
    if f'{prefix}pos_embed' in state_dict:
        describe_pos_embed(
            state_dict, f'{prefix}pos_embed', module.patch_resolution, module.num_pos_extra_tokens
        )
