"""The mask decoder (Segment Anything, arXiv:2304.02643, appendix A): tokens and a map to masks and their predicted IoU."""

import collections

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmssl.ops.linear import linear
from mmssl.promptable.common import LayerNorm2d, redraw
from mmssl.promptable.rows import at_a_time
from mmssl.promptable.two_way import ImageSide, TwoWayTransformer
from mmssl.registry import MODELS

# prompts that are decoded at a time on the CPU without gradients: their maps stay in the cache
PROMPTS = 4
# prompts of an image from which its map is projected for all of them, where places are projected for several
# images
SHARED = 3


class MLP(nn.Module):
    """Linear layers with ReLU between them.

    Args:
        input_dim, hidden_dim, output_dim, num_layers: sizes.
    """

    def __init__(self, input_dim: int, hidden_dim: int, output_dim: int, num_layers: int):
        super().__init__()
        dims = [input_dim] + [hidden_dim] * (num_layers - 1) + [output_dim]
        self.layers = nn.ModuleList(
            nn.Linear(width, following) for width, following in zip(dims, dims[1:], strict=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(..., input_dim) to (..., output_dim)."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


@MODELS.register_module()
class SAMMaskDecoder(BaseModule):
    """Masks and predicted IoU from an image's map and encoded prompts. Names as in the official ``MaskDecoder``.

    Args:
        transformer_dim: width C.
        transformer: a :class:`TwoWayTransformer`, or its sizes (depth, num_heads, mlp_dim,
            attention_downsample_rate).
        num_multimask_outputs: masks of an ambiguous prompt.
        iou_head_depth, iou_head_hidden_dim: sizes of the head that predicts IoU.
    """

    def __init__(
        self,
        transformer_dim: int = 256,
        transformer: dict | nn.Module | None = None,
        num_multimask_outputs: int = 3,
        iou_head_depth: int = 3,
        iou_head_hidden_dim: int = 256,
        init_cfg: dict | list | None = None,
    ):
        super().__init__(init_cfg)
        if transformer is None or isinstance(transformer, dict):
            transformer = TwoWayTransformer(**{'embedding_dim': transformer_dim, **(transformer or {})})
        if transformer.embedding_dim != transformer_dim or transformer_dim % 8:
            raise ValueError(
                f'transformer_dim={transformer_dim} must be a multiple of 8 and the width of the transformer, '
                f'which is {transformer.embedding_dim}'
            )
        self.transformer_dim, self.transformer = transformer_dim, transformer
        self.num_multimask_outputs, self.num_mask_tokens = num_multimask_outputs, num_multimask_outputs + 1
        self.iou_token = nn.Embedding(1, transformer_dim)
        self.mask_tokens = nn.Embedding(self.num_mask_tokens, transformer_dim)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(transformer_dim, transformer_dim // 4, 2, 2),
            LayerNorm2d(transformer_dim // 4),
            nn.GELU(),
            nn.ConvTranspose2d(transformer_dim // 4, transformer_dim // 8, 2, 2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(
            MLP(transformer_dim, transformer_dim, transformer_dim // 8, 3)
            for _ in range(self.num_mask_tokens)
        )
        self.iou_prediction_head = MLP(
            transformer_dim, iou_head_hidden_dim, self.num_mask_tokens, iou_head_depth
        )

    def init_weights(self) -> None:
        """Draw the initial weights anew, as torch does; an ``init_cfg`` of type 'Pretrained' has the last word."""
        redraw(self)
        super().init_weights()

    def prepare(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        dense: Tensor | None = None,
        projected: list[Tensor] | None = None,
    ) -> ImageSide:
        """Project what all prompts of the images share, to pass in place of ``image_embeddings`` to several calls.

        Args:
            image_embeddings: (B, C, h, w).
            image_pe: (1, C, h, w).
            dense: (1, C, h, w), what the prompt encoder gives without a mask; None where every prompt has a
                mask.
            projected: ``places`` of what this made for other images of the same size.
        """
        cells = None if dense is None else self.cells(image_embeddings, dense)
        return self.transformer.prepare(cells, image_pe[0].flatten(1).t().contiguous(), projected)

    @staticmethod
    def cells(image_embeddings: Tensor, dense: Tensor) -> Tensor:
        """(B, C, h, w), embeddings and what the prompt encoder adds, to (B, h * w, C)."""
        return (image_embeddings + dense).flatten(2).transpose(1, 2).contiguous()

    def forward(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
        multimask_output: bool,
        image_index: Tensor | None = None,
        sparse_valid: Tensor | None = None,
        image_side: ImageSide | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Predict the masks of P prompts.

        Args:
            image_embeddings: (B, C, h, w): one image for all prompts, one for each (B = P), or any number
                with ``image_index``.
            image_pe: (1, C, h, w).
            sparse_prompt_embeddings: (P, T, C).
            dense_prompt_embeddings: (P, C, h, w); one map expanded to P (or (1, C, h, w)) stands for prompts
                without masks.
            multimask_output: the masks of an ambiguous prompt; else the one mask.
            image_index: (P,) int64, the image of each prompt.
            sparse_valid: (P, T) bool, False where a prompt has fewer tokens than others; such tokens are not
                seen.
            image_side: what :meth:`prepare` made of these images and the map for no mask.

        Returns:
            logits (P, M, 4h, 4w) and predicted IoU (P, M); M is ``num_multimask_outputs`` or 1.

        Raises:
            ValueError: images and prompts that do not go together; outside of training, NaN or infinite
                results.
        """
        prompts, grid = sparse_prompt_embeddings.shape[0], image_embeddings.shape[-2:]
        images = image_embeddings.shape[0]
        if image_index is None and images not in (1, prompts):
            raise ValueError(
                f'{images} images for {prompts} prompts; give image_index, the image of each prompt'
            )
        dense = dense_prompt_embeddings.shape
        if dense[0] not in (1, prompts) or image_pe.shape[-2:] != grid or dense[-2:] != grid:
            raise ValueError(
                f'{prompts} prompts and a map of {tuple(grid)} do not fit dense prompts of shape '
                f'{tuple(dense)} and positions of {tuple(image_pe.shape[-2:])}'
            )
        output_tokens = torch.cat([self.iou_token.weight, self.mask_tokens.weight]).expand(prompts, -1, -1)
        tokens = torch.cat([output_tokens, sparse_prompt_embeddings.to(output_tokens.dtype)], dim=1)
        valid = sparse_valid
        if valid is not None:
            valid = torch.cat([valid.new_ones(prompts, output_tokens.shape[1]), valid], dim=1)
        masks = list(range(1, self.num_mask_tokens)) if multimask_output else [0]
        maps = no_mask = None
        if dense[0] == 1 or dense_prompt_embeddings.stride(0) == 0:
            no_mask = dense_prompt_embeddings[:1]
            if image_side is not None and (
                image_side.cells is None or no_mask.stride()[2:] != (0, 0)
            ):  # a mask that all share
                image_side = None
        else:
            maps = image_embeddings, dense_prompt_embeddings
            if image_side is not None and image_side.cells is not None:
                image_side = None
        if (
            tokens.device.type != 'cpu'
            or torch.is_grad_enabled()
            or torch.compiler.is_compiling()
            or prompts <= PROMPTS
        ):
            image_side = (
                self.prepare(image_embeddings, image_pe, no_mask) if image_side is None else image_side
            )
            return self._finite(*self._decode(image_side, maps, tokens, image_index, valid, masks, grid))
        index = [0] * prompts
        if image_index is not None or images > 1:
            index = list(range(prompts)) if image_index is None else image_index.tolist()
        dtype = torch.get_autocast_dtype('cpu') if torch.is_autocast_enabled('cpu') else tokens.dtype
        logits = tokens.new_empty(prompts, len(masks), 4 * grid[0], 4 * grid[1], dtype=dtype)
        iou = tokens.new_empty(prompts, len(masks), dtype=dtype)
        sides = _Sides(self, image_embeddings, image_pe, no_mask, image_side, index)
        mixed = self.transformer.goes_by_rows(sides.last[1], tokens, None if maps is None else maps[0])
        room = (
            tokens.new_empty(min(prompts, PROMPTS), grid[0] * grid[1], self.transformer_dim)
            if mixed and maps is None
            else None
        )
        for rows in _few(index, mixed):
            chosen = index[rows]
            seen, there = _seen_tokens(tokens[rows], None if valid is None else valid[rows])
            own = (
                None
                if maps is None
                else (maps[0][chosen if len(set(chosen)) > 1 else chosen[:1]], maps[1][rows])
            )
            side = (
                [sides.of(image, folds=True) for image in chosen]
                if mixed
                else sides.of(chosen[0], folds=False)
            )
            iou[rows] = self._finite(
                *self._decode(side, own, seen, None, there, masks, grid, logits[rows], room)
            )[1]
        return logits, iou

    def _finite(self, logits: Tensor, iou: Tensor) -> tuple[Tensor, Tensor]:
        """Both as they are; ValueError where they hold NaN or infinity, of which a threshold would make empty masks."""
        if not (
            self.training or torch.jit.is_tracing() or torch.compiler.is_compiling()
        ):  # in training a hook decides
            ends = [
                end for scores in (logits, iou) if scores.numel() for end in torch.aminmax(scores.detach())
            ]
            if not all(bool(torch.isfinite(end)) for end in ends):
                raise ValueError(
                    'Segment Anything predicts NaN or infinite masks: the checkpoint, the image or a prompt holds them'
                )
        return logits, iou

    def _decode(
        self,
        side: ImageSide | list[ImageSide],
        maps: tuple[Tensor, Tensor] | None,
        tokens: Tensor,
        image_index: Tensor | None,
        valid: Tensor | None,
        masks: list[int],
        grid: tuple[int, int],
        logits: Tensor | None = None,
        room: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Logits and predicted IoU of prompts that share what ``side`` holds (a list: each its own), or have the sum of two ``maps``."""
        cells = None
        if maps is not None:
            own = maps[0] if image_index is None else maps[0][image_index]
            cells = self.cells(own, maps[1])
        wanted = [0] + [1 + mask for mask in masks]
        if isinstance(side, list):
            out, cells = self.transformer.by_rows(side, tokens, cells, valid, wanted, room)
        else:
            out, cells = self.transformer(side, tokens, cells, image_index, valid, wanted)
        return self.to_masks(cells, self._vectors(out, masks), grid, logits), self.iou_prediction_head(
            out[:, 0]
        )[:, masks]

    def _vectors(self, out: Tensor, masks: list[int]) -> Tensor:
        """(P, M, C / 8) vectors of the masks from the tokens (P, 1 + M, C) that the transformer gives."""
        return torch.stack(
            [self.output_hypernetworks_mlps[mask](out[:, 1 + place]) for place, mask in enumerate(masks)],
            dim=1,
        )

    @torch.no_grad()
    def confident(
        self,
        image_side: ImageSide,
        sparse_prompt_embeddings: Tensor,
        grid: tuple[int, int],
        min_iou: float | None,
    ) -> tuple[Tensor, Tensor]:
        """The masks of many prompts on one image that are predicted to be good; the map is enlarged for prompts with such a mask alone.

        Numbers are those of :meth:`forward` with ``multimask_output``. The official code makes all masks and
        drops most of them.

        Args:
            image_side: what :meth:`prepare` made of the image and the map for no mask.
            sparse_prompt_embeddings: (P, T, C).
            grid: (h, w) of the map.
            min_iou: predicted IoUs above it are good; None: all.

        Returns:
            logits (K, 4h, 4w) of the good masks, in the order of the prompts, and predicted IoU (P, M) of
            all.
        """
        output_tokens = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        masks, logits, ious = list(range(1, self.num_mask_tokens)), [], []
        step = PROMPTS if sparse_prompt_embeddings.device.type == 'cpu' else len(sparse_prompt_embeddings)
        for sparse in sparse_prompt_embeddings.split(max(step, 1)):
            tokens = torch.cat(
                [output_tokens.expand(len(sparse), -1, -1), sparse.to(output_tokens.dtype)], dim=1
            )
            out, cells = self.transformer(image_side, tokens, wanted=[0] + [1 + mask for mask in masks])
            iou = self.iou_prediction_head(out[:, 0])[:, masks]
            good = torch.ones_like(iou, dtype=torch.bool) if min_iou is None else iou.float() > min_iou
            some, vectors = good.any(dim=1), self._vectors(out, masks)
            if not some.all():
                cells, vectors, good = cells[some], vectors[some], good[some]
            if len(cells):
                logits.append(self.to_masks(cells, vectors, grid)[good])
            ious.append(iou)
        nothing = sparse_prompt_embeddings.new_zeros(0, 4 * grid[0], 4 * grid[1])
        return self._finite(torch.cat(logits) if logits else nothing, torch.cat(ious))

    def to_masks(
        self, cells: Tensor, hyper: Tensor, grid: tuple[int, int], out: Tensor | None = None
    ) -> Tensor:
        """Enlarge the maps four times and multiply them by the vectors of the masks.

        A transposed convolution whose kernel is its stride is a product: every cell becomes four, none of
            which sees another.

        Args:
            cells: (P, h * w, C).
            hyper: (P, M, C / 8).
            grid: (h, w).
            out: (P, M, 4h, 4w), contiguous, to write to.

        Returns:
            (P, M, 4h, 4w).
        """
        height, width = grid
        first, norm, _, second, _ = self.output_upscaling
        steps = (*_as_product(first), norm, *_as_product(second))
        if cells.device.type == 'cpu' and not torch.is_grad_enabled() and not torch.compiler.is_compiling():
            out = cells.new_empty(*hyper.shape[:2], 4 * height, 4 * width) if out is None else out
            step = max(1, at_a_time() // width)
            for one, vectors, planes in zip(cells, hyper, out, strict=True):
                for top in range(0, height, step):
                    part = planes[:, 4 * top : 4 * (top + step)]
                    small = _enlarge(one[None, top * width : (top + step) * width], *steps, vectors[None])
                    part.view(len(part), -1, 2, 2, width, 2, 2).copy_(_unfold(small, width)[0])
            return out
        return _unfold(_enlarge(cells, *steps, hyper), width).reshape(
            -1, hyper.shape[1], 4 * height, 4 * width
        )


def _unfold(small: Tensor, width: int) -> Tensor:
    """Logits (P, M, n * 16), sixteen of a cell, to (P, M, n / width, 2, 2, width, 2, 2): rows and columns, first step before second."""
    return small.view(*small.shape[:2], -1, width, 2, 2, 2, 2).permute(0, 1, 2, 4, 6, 3, 5, 7)


class _Sides:
    """The :class:`ImageSide` of one image after the other, each made once where the prompts come in the order of the images."""

    def __init__(
        self,
        decoder: SAMMaskDecoder,
        embeddings: Tensor,
        positions: Tensor,
        no_mask: Tensor | None,
        ready: ImageSide | None,
        index: list[int],
    ):
        self.decoder, self.embeddings, self.positions, self.no_mask = decoder, embeddings, positions, no_mask
        self.prompts = collections.Counter(index)
        if ready is None:  # places alone serve all images
            side = decoder.prepare(
                embeddings[index[0]][None], positions, no_mask if len(self.prompts) == 1 else None
            )
        else:
            side = ready
        self.last = -1, side
        self.ready = side if ready is not None or len(self.prompts) == 1 else None
        self.places = side.places

    def of(self, image: int, folds: bool) -> ImageSide:
        """That of an image; ``folds``: without projections where so few prompts share them that they cost more than they save."""
        if image == self.last[0] or self.no_mask is None:
            return self.last[1]
        one = slice(image, image + 1)
        if self.ready is not None:
            assert self.ready.cells is not None
            side = self.ready.of(slice(0, 1) if len(self.ready.cells) == 1 else one)
        elif folds and self.prompts[image] < SHARED:
            side = ImageSide(
                self.decoder.cells(self.embeddings[one], self.no_mask), None, None, None, self.places
            )
        else:
            side = self.decoder.prepare(self.embeddings[one], self.positions, self.no_mask, self.places)
        self.last = image, side
        return side


def _few(index: list[int], mixed: bool) -> list[slice]:
    """Runs of at most ``PROMPTS`` prompts, in order; of one image, unless images may be mixed."""
    starts = [0]
    for number in range(1, len(index)):
        if number - starts[-1] == PROMPTS or (not mixed and index[number] != index[number - 1]):
            starts.append(number)
    return [slice(start, end) for start, end in zip(starts, [*starts[1:], len(index)], strict=True)]


def _seen_tokens(tokens: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Tokens (P, T, C) and which are there, without what only other prompts have."""
    if valid is None:
        return tokens, None
    there = valid.any(dim=0)
    return tokens[:, there], None if valid[:, there].all() else valid[:, there]


def _as_product(conv: nn.ConvTranspose2d) -> tuple[Tensor, Tensor]:
    """Weight (4 * D, C) and bias (4 * D,) of the four cells, row by row, that a transposed convolution makes of one."""
    return conv.weight.permute(2, 3, 1, 0).flatten(0, 2), conv.bias.repeat(4)


def _enlarge(
    cells: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    norm: LayerNorm2d,
    weight2: Tensor,
    bias2: Tensor,
    hyper: Tensor,
) -> Tensor:
    """Cells (P, n, C) and vectors (P, M, C / 8) to (P, M, n * 16)."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        product, gelu = F.linear, F.gelu
    else:
        product, gelu = linear, torch.ops.aten.gelu_
    x = gelu(norm.rows(product(cells, weight1, bias1).unflatten(-1, (4, -1))))
    x = gelu(product(x, weight2, bias2)).unflatten(-1, (4, -1))
    return hyper @ x.flatten(1, 3).transpose(1, 2)
