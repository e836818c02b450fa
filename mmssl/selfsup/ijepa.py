"""I-JEPA: predict any part of an image from any observed part, in feature space (arXiv:2301.08243).

A context encoder gets some patches of an image. A predictor gets its output and the positions of a block of
other patches, and predicts what the target encoder, a moving average of the context encoder that gets the
whole image, says there.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmssl.layers.momentum import MomentumEncoder
from mmssl.layers.patch import gather_tokens, patch_grid
from mmssl.layers.pos_embed import sincos_2d
from mmssl.layers.transformer import TransformerBlock, init_linear_xavier
from mmssl.layers.vit import ViT
from mmssl.losses.dino import promote_to_float32
from mmssl.ops.precision import no_autocast
from mmssl.registry import MODELS, build
from mmssl.selfsup.base import ScheduledSupervisor
from mmssl.selfsup.small import ARCH, Small, forward, single_view


class Blocks(NamedTuple):
    """Patches of a batch of images.

    Attributes:
        context: (B, K), indices of the patches that the context encoder gets.
        targets: (T, B, M), indices of the patches of each target block.
    """

    context: Tensor
    targets: Tensor


def draw_blocks(  # noqa: PLR0913 - settings of the paper
    batch: int,
    grid: tuple[int, int],
    num_targets: int = 4,
    target_scale: tuple[float, float] = (0.15, 0.2),
    target_aspect: tuple[float, float] = (0.75, 1.5),
    context_scale: tuple[float, float] = (0.85, 1.0),
    min_context: int = 4,
    generator: torch.Generator | None = None,
) -> Blocks:
    """Draw target blocks, and a context block without their patches (section 3 and figure 4).

    The size of the blocks is drawn once for the batch, their positions for every image. All images keep as
    many context patches as the one with the fewest, drawn at random.

    Args:
        batch: B.
        grid: (rows, columns) of patches.
        num_targets: T, target blocks of an image; they may overlap.
        target_scale: Smallest and largest area of a target block, as a fraction of the image.
        target_aspect: Smallest and largest height / width of a target block.
        context_scale: Smallest and largest area of the context block, which is square.
        min_context: Fewest context patches; the positions are drawn again for a batch that has fewer.
        generator: Source of random numbers on the CPU.

    Raises:
        ValueError: Twenty draws in a row leave too few context patches.
    """

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * torch.rand((), generator=generator).item()

    def size(scale: tuple[float, float], aspect: float) -> tuple[int, int]:
        area = uniform(*scale) * grid[0] * grid[1]
        sides = math.sqrt(area * aspect), math.sqrt(area / aspect)
        height, width = (min(max(round(side), 1), limit) for side, limit in zip(sides, grid, strict=True))
        return height, width

    def position(sides: tuple[int, int], count: int) -> Tensor:
        """(count, B, rows, columns), True inside a block of this size."""
        inside = []
        for side, limit in zip(sides, grid, strict=True):
            first = torch.randint(limit - side + 1, (count, batch, 1), generator=generator)
            index = torch.arange(limit)
            inside.append((index >= first) & (index < first + side))
        return inside[0].unsqueeze(3) & inside[1].unsqueeze(2)

    for _ in range(20):
        target_size = size(target_scale, uniform(*target_aspect))
        targets = position(target_size, num_targets)
        context = (position(size(context_scale, 1.0), 1)[0] & ~targets.any(dim=0)).flatten(1)
        count = int(context.sum(dim=1).min())
        if count >= min_context:
            break
    else:
        raise ValueError(
            f'{num_targets} target blocks with an area of {target_scale} leave fewer than {min_context} '
            f'context patches of {grid[0]}x{grid[1]}; use smaller or fewer targets, or smaller patches'
        )
    noise = torch.rand(context.shape, generator=generator).masked_fill(~context, 2)
    chosen = noise.argsort(dim=1)[:, :count].sort(dim=1).values
    return Blocks(chosen, targets.flatten(2).nonzero()[:, 2].view(num_targets, batch, -1))


@MODELS.register_module()
class IJEPAViT(ViT):
    """ViT without class token and with a fixed position table, of which some patches may be left out.

    Args:
        *args: Passed on to :class:`~mmssl.layers.vit.ViT`.
        **kwargs: Passed on to :class:`~mmssl.layers.vit.ViT`.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **{**kwargs, 'with_cls_token': False})
        if self.pos_embed is None or self.rope is not None or self.register_tokens is not None:
            raise ValueError(
                'IJEPAViT has a fixed position table, and neither rotary positions nor registers: leave out '
                'use_abs_pos_emb, rope_cfg and num_registers'
            )
        self.pos_embed.requires_grad_(False)

    def encode(self, images: Tensor, index: Tensor | None = None) -> Tensor:
        """Encode the patches ``index`` (B, K) of images (B, 3, H, W), or all: (B, K, C), normalised."""
        tokens, _ = self.embed(images)
        if index is not None:
            tokens = gather_tokens(tokens, index)
        for layer in self.layers:
            tokens = self.run_layer(layer, tokens)
        return self.ln1(tokens) if self.final_norm else tokens


@MODELS.register_module()
class IJEPAPredictor(BaseModule):
    """Narrow ViT from context tokens to the features of a target block (section 3, 'Prediction').

    Args:
        grid: (rows, columns) of patches; inside an :class:`IJEPA` the backbone's.
        in_dim: Channels of the encoder; inside an :class:`IJEPA` the backbone's.
        embed_dims: Channels of the predictor.
        num_layers: Number of blocks.
        num_heads: Heads of a block.
        init_cfg: Initialisation in mmengine's form.
    """

    COMPILED_BLOCKS = ('layers',)

    def __init__(
        self,
        grid: tuple[int, int],
        in_dim: int,
        embed_dims: int = 384,
        num_layers: int = 6,
        num_heads: int = 6,
        init_cfg: dict | list | None = None,
    ):
        super().__init__(init_cfg)
        self.embed = nn.Linear(in_dim, embed_dims)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, embed_dims))
        self.pos_embed = nn.Parameter(sincos_2d(grid, embed_dims, 0), requires_grad=False)
        self.layers = nn.ModuleList(
            TransformerBlock(embed_dims, num_heads, 4 * embed_dims) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(embed_dims, eps=1e-6)
        self.proj = nn.Linear(embed_dims, in_dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw linear layers Xavier-uniform and the mask token from N(0, 0.02)."""
        self.apply(init_linear_xavier)
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def init_weights(self) -> None:
        """Draw the initial weights."""
        self.reset_parameters()
        super().init_weights()

    def forward(self, context: Tensor, blocks: Blocks) -> Tensor:
        """Predict every target block by itself.

        Args:
            context: (B, K, C), output of the context encoder.
            blocks: Where its patches and the targets are.

        Returns:
            (T, B, M, C).
        """
        tokens = self.embed(context) + gather_tokens(self.pos_embed, blocks.context).to(context.dtype)
        predictions = []
        for target in blocks.targets:
            queries = self.mask_token + gather_tokens(self.pos_embed, target)
            x = torch.cat([tokens, queries.to(tokens.dtype)], dim=1)
            for layer in self.layers:
                x = layer(x)
            predictions.append(self.proj(self.norm(x[:, tokens.shape[1] :])))
        return torch.stack(predictions)


@MODELS.register_module()
class IJEPA(ScheduledSupervisor):
    """I-JEPA: ``IJEPA(backbone=mmssl.IJEPAViT, neck=mmssl.IJEPAPredictor)``.

    Args:
        backbone: Context encoder: config, or built.
        neck: Predictor: config, or built. ``grid`` and ``in_dim`` default to the backbone's.
        momentum: Momentum of the target encoder at the first step; it rises linearly to ``final_momentum``.
        final_momentum: Momentum at the last step; None keeps ``momentum``.
        criterion: 'smooth_l1' (released code) or 'L2' (section 3, 'Loss').
        blocks: Arguments of :func:`draw_blocks`.
        **kwargs: Passed on to :class:`~mmssl.selfsup.base.ScheduledSupervisor`.
    """

    def __init__(
        self,
        backbone: dict | nn.Module,
        neck: dict | nn.Module,
        momentum: float = 0.996,
        final_momentum: float | None = 1.0,
        criterion: str = 'smooth_l1',
        blocks: dict | None = None,
        **kwargs,
    ):
        if criterion not in ('smooth_l1', 'L2'):
            raise ValueError(f"criterion={criterion!r} of IJEPA is unknown; one of 'smooth_l1', 'L2'")
        backbone = build(backbone, MODELS)
        if not isinstance(backbone, IJEPAViT):
            raise ValueError(f'the backbone of IJEPA is {type(backbone).__name__}; use mmssl.IJEPAViT')
        if isinstance(neck, dict):
            neck = {'grid': backbone.patch_resolution, 'in_dim': backbone.embed_dims, **neck}
        super().__init__(backbone, neck, **kwargs)
        self.criterion = criterion
        self.blocks = blocks or {}
        self.first_momentum = momentum
        self.final_momentum = final_momentum
        self.teacher = MomentumEncoder(self.backbone, momentum)

    @property
    def evaluated(self) -> nn.Module:
        """Backbone whose features ``extract_feat`` returns: the target encoder (section 4)."""
        return self.teacher.module

    def momentum_pairs(self) -> list[tuple[MomentumEncoder, nn.Module]]:
        """Return the target encoder and the context encoder."""
        return [(self.teacher, self.backbone)]

    def extract_feat(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Features of images (B, 3, H, W) from the target encoder."""
        return self.evaluated(inputs)

    def loss(
        self, inputs: Tensor, data_samples: list | None = None, blocks: Blocks | None = None
    ) -> dict[str, Tensor]:
        """Compute the loss of a batch.

        Args:
            inputs: (B, 3, H, W), normalised.
            data_samples: Ignored.
            blocks: Draw of the context and the targets; drawn if None.

        Returns:
            ``dict(loss=scalar)``, the mean over targets, images, patches and channels.
        """
        self.begin_forward()
        if blocks is None:
            grid = patch_grid(inputs.shape[2], inputs.shape[3], self.backbone.patch_embed.patch_size)
            blocks = draw_blocks(len(inputs), grid, **self.blocks)
        blocks = Blocks(*(index.to(inputs.device, non_blocking=True) for index in blocks))
        with torch.no_grad():
            features = self.teacher.module.encode(inputs)
        predictions = self.neck(self.backbone.encode(inputs, blocks.context), blocks)
        with no_autocast(inputs):
            features = F.layer_norm(promote_to_float32(features), features.shape[-1:])
            targets = torch.stack([gather_tokens(features, target) for target in blocks.targets])
            distance = F.mse_loss if self.criterion == 'L2' else F.smooth_l1_loss
            return dict(loss=distance(promote_to_float32(predictions), targets))

    def after_update(self) -> None:
        """Move the target encoder."""
        self.update_teachers()

    def update_teachers(self) -> None:
        """Move the target encoder with the momentum of this step, at most once per optimizer step."""
        if self.clock.max_steps and self.final_momentum is not None:
            fraction = min(self.teacher.steps / self.clock.max_steps, 1.0)
            rise = (self.final_momentum - self.first_momentum) * fraction
            self.teacher.momentum = self.first_momentum + rise
        super().update_teachers()


PREDICTOR = dict(type='mmssl.IJEPAPredictor', embed_dims=16, num_layers=1, num_heads=2)
VIT = dict(type='mmssl.IJEPAViT', arch=ARCH, img_size=32, patch_size=4)
SMALL = {
    'IJEPAViT': Small(dict(arch=ARCH, img_size=32, patch_size=4), forward, (2, 32, 8, 8)),
    'IJEPAPredictor': Small(
        dict(grid=(4, 4), in_dim=12, embed_dims=16, num_layers=1, num_heads=2),
        lambda model, images: model(
            images.reshape(2, -1, 12)[:, :5],
            Blocks(torch.arange(5).expand(2, 5), torch.arange(8, 14).view(3, 1, 2).expand(3, 2, 2)),
        ),
        (3, 2, 2, 12),
    ),
    'IJEPA': Small(dict(backbone=VIT, neck=PREDICTOR), single_view),
}
