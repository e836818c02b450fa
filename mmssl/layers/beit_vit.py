"""The vision transformer of BEiT (arXiv:2106.08254), with relative positions only."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmssl.layers.base_vit import BaseViT
from mmssl.layers.beit_block import INIT_STD, BEiTAttention, BEiTBlock, init_truncated
from mmssl.layers.patch import PatchEmbed, patch_grid
from mmssl.layers.relative_position import RelativePositionBias, grid_of_index, resize_bias_table
from mmssl.layers.transformer import norm_eps
from mmssl.registry import MODELS

__all__ = ['BEiTAttention', 'BEiTBlock', 'BEiTViT', 'init_truncated', 'resize_bias_table']


@MODELS.register_module()
class BEiTViT(BaseViT):
    """BEiT's vision transformer with the argument and parameter names of mmpretrain's BEiTViT.

    Args:
        arch: 'base', 'large', ... or a dict of sizes, as for :class:`mmssl.layers.vit.ViT`.
        img_size: Side of the images in pixels, or (height, width). Images of other sizes run with a resized
            bias table.
        patch_size: Side of a patch in pixels, or (height, width).
        in_channels: Number of channels of the images.
        out_indices: Layers whose output is returned; negative indices count from the end.
        drop_rate: Dropout rate.
        attn_drop_rate: Dropout rate of the attention weights.
        drop_path_rate: Stochastic depth of the last layer, rising linearly from 0 at the first.
        norm_cfg: ``dict(type='LN', eps=...)``.
        final_norm: Whether there is a layer norm (``ln1``) after the last layer.
        out_type: 'featmap' (B, C, h, w); 'cls_token' (B, C); 'avg_featmap' (B, C), the mean of the patches
            followed by the layer norm ``ln2``; 'raw' (B, 1 + N, C).
        use_shared_rel_pos_bias: Use one relative position bias for all layers, as in pre-training.
        use_rel_pos_bias: Use one relative position bias per layer, as in fine-tuning. The shared one of a
            pre-trained file is copied to all layers.
        layer_scale_init_value: Initial layer scale, 0.1, or 1e-5 for the large model; 0 for none.
        with_mask_token: Whether there is a token that replaces masked patches; only pre-training needs it.
        frozen_stages: Number of layers that are frozen together with the stem; with all of them norms and
            shared bias are frozen too. -1 freezes nothing.
        init_cfg: Initialisation in mmengine's form; ``dict(type='Pretrained', checkpoint=...,
            prefix='backbone.')`` loads the backbone from the checkpoint of a whole model.
    """

    # unlike mmpretrain's, it works where only mmdet or mmseg is installed, takes images of any shape, is
    # initialised as in the released code, and computes the last layer of pre-training for masked patches only

    STEM = ('cls_token', 'mask_token')
    FINAL = ('ln1', 'ln2', 'rel_pos_bias')

    def __init__(  # noqa: PLR0913
        self,
        arch: str | dict = 'base',
        img_size: int | tuple[int, int] = 224,
        patch_size: int | tuple[int, int] = 16,
        in_channels: int = 3,
        out_indices: int | Sequence[int] = -1,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        norm_cfg: dict | None = None,
        final_norm: bool = True,
        out_type: str = 'featmap',
        use_shared_rel_pos_bias: bool = True,
        use_rel_pos_bias: bool = False,
        layer_scale_init_value: float = 0.1,
        with_mask_token: bool = True,
        frozen_stages: int = -1,
        init_cfg: dict | list | None = None,
    ):
        super().__init__(arch, img_size, out_indices, out_type, final_norm, init_cfg)
        if use_shared_rel_pos_bias and use_rel_pos_bias:
            raise ValueError(
                'use_shared_rel_pos_bias and use_rel_pos_bias exclude each other: the first is for '
                'pre-training, the second for fine-tuning'
            )
        eps = norm_eps(norm_cfg)
        num_heads = self.arch_settings['num_heads']

        self.patch_embed = PatchEmbed(patch_size, in_channels, self.embed_dims)
        self.patch_resolution = patch_grid(*self.img_size, self.patch_embed.patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, self.embed_dims))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, self.embed_dims)) if with_mask_token else None
        self.drop_after_pos = nn.Dropout(drop_rate)
        self.rel_pos_bias = (
            RelativePositionBias(self.patch_resolution, num_heads) if use_shared_rel_pos_bias else None
        )
        self.use_rel_pos_bias = use_rel_pos_bias
        depth_rates = torch.linspace(0, drop_path_rate, self.num_layers, device='cpu').tolist()
        self.layers = nn.ModuleList(
            BEiTBlock(
                self.embed_dims,
                num_heads,
                self.arch_settings['feedforward_channels'],
                self.patch_resolution if use_rel_pos_bias else None,
                layer_scale_init_value,
                drop_rate,
                attn_drop_rate,
                rate,
                eps,
            )
            for rate in depth_rates
        )
        self._add_norms(eps)
        self.register_load_state_dict_pre_hook(_fit_bias_tables)
        self.reset_parameters()
        self.frozen_stages = frozen_stages
        self._freeze()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the initial weights of the released code.

        N(0, 0.02) cut at one standard deviation (not two), with the last layer of each
        branch scaled down by its depth.
        """
        for module in self.modules():
            init_truncated(module)
        for token in (self.cls_token, self.mask_token):
            if token is not None:
                nn.init.trunc_normal_(token, std=INIT_STD, a=-INIT_STD, b=INIT_STD)
        for depth, layer in enumerate(self.layers, 1):
            for module in (layer.attn.proj, layer.ffn.layers[1]):
                module.weight.div_((2 * depth) ** 0.5)
            for bias in (layer.attn.q_bias, layer.attn.v_bias):
                bias.zero_()
            for gamma in (layer.gamma_1, layer.gamma_2):
                if gamma is not None:
                    gamma.fill_(layer.layer_scale_init_value)

    def _tokens(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, tuple[int, int]]:
        tokens, grid = self.patch_embed(x)
        if mask is not None:
            if tuple(mask.shape) not in ((len(x), *grid), (len(x), grid[0] * grid[1])):
                raise ValueError(
                    f'mask has shape {tuple(mask.shape)}; {len(x)} images of {grid[0]}x{grid[1]} patches '
                    f'need ({len(x)}, {grid[0]}, {grid[1]})'
                )
            mask_token = self.mask_token.to(tokens.dtype)  # type: ignore[union-attr]  # needs with_mask_token
            tokens = torch.where(mask.flatten(1).unsqueeze(-1).bool(), mask_token, tokens)
        tokens = torch.cat([self.cls_token.expand(tokens.shape[0], -1, -1), tokens], dim=1)
        return self.drop_after_pos(tokens), grid

    def encode_masked(self, x: Tensor, mask: Tensor, rows: Tensor) -> Tensor:
        """Encode images whose masked patches are replaced by the mask token (BEiT, section 2.3).

        Args:
            x: (B, 3, H, W), normalised.
            mask: (B, rows, columns) or (B, N), True for masked patches.
            rows: (T,), indices of the masked patches among all B * N, ascending.

        Returns:
            (T, C), the last layer's output for the masked patches.
        """
        tokens, grid = self._tokens(x, mask)
        rows = rows + rows // (grid[0] * grid[1]) + 1  # a class token before each image
        bias = None if self.rel_pos_bias is None else self.rel_pos_bias(grid)
        for layer in self.layers[:-1]:
            tokens = layer(tokens, grid, bias)
        tokens = self.layers[-1](tokens, grid, bias, rows)
        return self.ln1(tokens) if self.final_norm else tokens

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, ...]:
        """Encode images.

        Args:
            x: (B, 3, H, W), normalised, with H and W divisible by the patch size.
            mask: (B, rows, columns), True for masked patches; None for whole images.

        Returns:
            The output of every layer in ``out_indices``, in the form of ``out_type``.
        """
        tokens, grid = self._tokens(x, mask)
        bias = None if self.rel_pos_bias is None else self.rel_pos_bias(grid)
        outs = []
        for index, layer in enumerate(self.layers):
            tokens = layer(tokens, grid, bias)
            if index == self.num_layers - 1 and self.final_norm:
                tokens = self.ln1(tokens)
            if index in self.out_indices:
                outs.append(self._output(tokens, grid))
        return tuple(outs)


def _fit_bias_tables(module: BEiTViT, state_dict: dict, prefix: str, *_) -> None:
    """Fit the bias tables of a state dict to the network, in place, before loading."""
    if module.use_rel_pos_bias:
        _copy_shared_table(module, state_dict, prefix)
    for name, parameter in module.named_parameters():
        table = state_dict.get(prefix + name)
        if name.endswith('relative_position_bias_table') and table is not None:
            _resize_table(module, state_dict, prefix, name, parameter.shape)


def _copy_shared_table(module: BEiTViT, state_dict: dict, prefix: str) -> None:
    from mmengine.logging import print_log

    table = state_dict.pop(f'{prefix}rel_pos_bias.relative_position_bias_table', None)
    if table is None:
        return
    state_dict.pop(f'{prefix}rel_pos_bias.relative_position_index', None)
    for index, layer in enumerate(module.layers):
        key = f'{prefix}layers.{index}.attn.relative_position'
        state_dict.setdefault(f'{key}_bias_table', table.clone())
        state_dict.setdefault(f'{key}_index', layer.attn.relative_position_index)
    print_log('the shared relative position bias is copied to every layer', 'current')


def _resize_table(module: BEiTViT, state_dict: dict, prefix: str, name: str, shape: torch.Size) -> None:
    from mmengine.logging import print_log

    table = state_dict[prefix + name]
    index = name.replace('bias_table', 'index')
    own_index = module.get_buffer(index)
    saved_index = state_dict.get(prefix + index)
    if table.ndim != 2 or table.shape[1] != shape[1]:
        return  # the loader reports it
    if saved_index is None:  # as in the released files, whose images are square
        size = (round((len(table) - 3) ** 0.5) + 1) // 2
        source: tuple[int, int] | None = (size, size) if table.shape != shape else module.patch_resolution
    elif saved_index.shape == own_index.shape and torch.equal(saved_index.to(own_index), own_index):
        return
    else:
        source = grid_of_index(saved_index)
    if source is None or (2 * source[0] - 1) * (2 * source[1] - 1) + 3 != len(table):
        return  # the loader reports it
    if source == tuple(module.patch_resolution):
        return
    rows, columns = module.patch_resolution
    state_dict[prefix + name] = resize_bias_table(table, source, module.patch_resolution)
    state_dict[prefix + index] = own_index
    print_log(f'{prefix}{name}: resized from {source[0]}x{source[1]} to {rows}x{columns} patches', 'current')
