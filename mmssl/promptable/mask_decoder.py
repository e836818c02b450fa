"""The mask decoder (Segment Anything, arXiv:2304.02643, appendix A): tokens and a map to masks and their predicted IoU."""

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmssl.promptable.common import LayerNorm2d, redraw
from mmssl.promptable.two_way import ImageSide, TwoWayTransformer
from mmssl.registry import MODELS

# cells of the map that are enlarged at a time on the CPU without gradients: what they become stays in the cache
CELLS = 512
# prompts that are decoded at a time there, for the same reason
PROMPTS = 2


class MLP(nn.Module):
    """Linear layers with ReLU between them.

    Args:
        input_dim, hidden_dim, output_dim, num_layers: sizes.
    """

    def __init__(self, input_dim: int, hidden_dim: int, output_dim: int, num_layers: int):
        super().__init__()
        dims = [input_dim] + [hidden_dim] * (num_layers - 1) + [output_dim]
        self.layers = nn.ModuleList(nn.Linear(width, following) for width, following in zip(dims, dims[1:], strict=False))

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
        transformer: a :class:`TwoWayTransformer`, or its sizes (depth, num_heads, mlp_dim, attention_downsample_rate).
        num_multimask_outputs: masks of an ambiguous prompt.
        iou_head_depth, iou_head_hidden_dim: sizes of the head that predicts IoU.
    """

    def __init__(self, transformer_dim: int = 256, transformer: dict | nn.Module | None = None, num_multimask_outputs: int = 3,
                 iou_head_depth: int = 3, iou_head_hidden_dim: int = 256, init_cfg: dict | list | None = None):
        super().__init__(init_cfg)
        if transformer is None or isinstance(transformer, dict):
            transformer = TwoWayTransformer(**{'embedding_dim': transformer_dim, **(transformer or {})})
        if transformer.embedding_dim != transformer_dim or transformer_dim % 8:
            raise ValueError(f'transformer_dim={transformer_dim} must be a multiple of 8 and the width of the transformer, '
                             f'which is {transformer.embedding_dim}')
        self.transformer_dim, self.transformer = transformer_dim, transformer
        self.num_multimask_outputs, self.num_mask_tokens = num_multimask_outputs, num_multimask_outputs + 1
        self.iou_token = nn.Embedding(1, transformer_dim)
        self.mask_tokens = nn.Embedding(self.num_mask_tokens, transformer_dim)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(transformer_dim, transformer_dim // 4, 2, 2), LayerNorm2d(transformer_dim // 4), nn.GELU(),
            nn.ConvTranspose2d(transformer_dim // 4, transformer_dim // 8, 2, 2), nn.GELU())
        self.output_hypernetworks_mlps = nn.ModuleList(
            MLP(transformer_dim, transformer_dim, transformer_dim // 8, 3) for _ in range(self.num_mask_tokens))
        self.iou_prediction_head = MLP(transformer_dim, iou_head_hidden_dim, self.num_mask_tokens, iou_head_depth)

    def init_weights(self) -> None:
        """Draw the initial weights anew, as torch does; an ``init_cfg`` of type 'Pretrained' has the last word."""
        redraw(self)
        super().init_weights()

    def prepare(self, image_embeddings: Tensor, image_pe: Tensor, dense: Tensor | None = None,
                projected: list[Tensor] | None = None) -> ImageSide:
        """Project what all prompts of the images share, to pass in place of ``image_embeddings`` to several calls.

        Args:
            image_embeddings: (B, C, h, w).
            image_pe: (1, C, h, w).
            dense: (1, C, h, w), what the prompt encoder gives without a mask; None where every prompt has a mask.
            projected: ``places`` of what this made for other images of the same size.
        """
        cells = None if dense is None else (image_embeddings + dense).flatten(2).transpose(1, 2).contiguous()
        return self.transformer.prepare(cells, image_pe[0].flatten(1).t().contiguous(), projected)

    def forward(self, image_embeddings: Tensor, image_pe: Tensor, sparse_prompt_embeddings: Tensor, dense_prompt_embeddings: Tensor,
                multimask_output: bool, image_index: Tensor | None = None, sparse_valid: Tensor | None = None,
                image_side: ImageSide | None = None) -> tuple[Tensor, Tensor]:
        """Predict the masks of P prompts.

        Args:
            image_embeddings: (B, C, h, w): one image for all prompts, one for each (B = P), or any number with ``image_index``.
            image_pe: (1, C, h, w).
            sparse_prompt_embeddings: (P, T, C).
            dense_prompt_embeddings: (P, C, h, w); one map expanded to P (or (1, C, h, w)) stands for prompts without masks.
            multimask_output: the masks of an ambiguous prompt; else the one mask.
            image_index: (P,) int64, the image of each prompt.
            sparse_valid: (P, T) bool, False where a prompt has fewer tokens than others; such tokens are not seen.
            image_side: what :meth:`prepare` made of these images and the map for no mask.

        Returns:
            logits (P, M, 4h, 4w) and predicted IoU (P, M); M is ``num_multimask_outputs`` or 1.

        Raises:
            ValueError: images and prompts that do not go together; outside of training, NaN or infinite results.
        """
        prompts, grid = sparse_prompt_embeddings.shape[0], image_embeddings.shape[-2:]
        images = image_embeddings.shape[0]
        if image_index is None and images not in (1, prompts):
            raise ValueError(f'{images} images for {prompts} prompts; give image_index, the image of each prompt')
        dense = dense_prompt_embeddings.shape
        if dense[0] not in (1, prompts) or image_pe.shape[-2:] != grid or dense[-2:] != grid:
            raise ValueError(f'{prompts} prompts and a map of {tuple(grid)} do not fit dense prompts of shape '
                             f'{tuple(dense)} and positions of {tuple(image_pe.shape[-2:])}')
        output_tokens = torch.cat([self.iou_token.weight, self.mask_tokens.weight]).expand(prompts, -1, -1)
        tokens = torch.cat([output_tokens, sparse_prompt_embeddings.to(output_tokens.dtype)], dim=1)
        valid = sparse_valid
        if valid is not None:
            valid = torch.cat([valid.new_ones(prompts, output_tokens.shape[1]), valid], dim=1)
        masks = list(range(1, self.num_mask_tokens)) if multimask_output else [0]
        maps = no_mask = None
        if dense[0] == 1 or dense_prompt_embeddings.stride(0) == 0:
            no_mask = dense_prompt_embeddings[:1]
            if image_side is not None and (image_side.cells is None or no_mask.stride()[2:] != (0, 0)):  # a mask that all share
                image_side = None
        else:
            maps = image_embeddings, dense_prompt_embeddings
            if image_side is not None and image_side.cells is not None:
                image_side = None
        if tokens.device.type != 'cpu' or torch.is_grad_enabled() or torch.compiler.is_compiling() or prompts <= PROMPTS:
            image_side = self.prepare(image_embeddings, image_pe, no_mask) if image_side is None else image_side
            return self._finite(*self._decode(image_side, maps, tokens, image_index, valid, masks, grid))
        index = [0] * prompts
        if image_index is not None or images > 1:
            index = list(range(prompts)) if image_index is None else image_index.tolist()
        side, of = image_side, None
        dtype = torch.get_autocast_dtype('cpu') if torch.is_autocast_enabled('cpu') else tokens.dtype
        logits = tokens.new_empty(prompts, len(masks), 4 * grid[0], 4 * grid[1], dtype=dtype)
        iou = tokens.new_empty(prompts, len(masks), dtype=dtype)
        for rows in _few_of_one_image(index):
            image = slice(index[rows.start], index[rows.start] + 1)
            if maps is not None:
                side = self.prepare(image_embeddings, image_pe) if side is None else side
            elif image_side is not None:
                side = ImageSide(*(one[image] for one in image_side[:4]), image_side.places)
            elif image != of:
                side, of = self.prepare(image_embeddings[image], image_pe, no_mask, None if side is None else side.places), image
            seen, there = _seen_tokens(tokens[rows], None if valid is None else valid[rows])
            own = None if maps is None else (maps[0][image], maps[1][rows])
            iou[rows] = self._finite(*self._decode(side, own, seen, None, there, masks, grid, logits[rows]))[1]
        return logits, iou

    def _finite(self, logits: Tensor, iou: Tensor) -> tuple[Tensor, Tensor]:
        """Both as they are; ValueError where they hold NaN or infinity, of which a threshold would make empty masks."""
        if not (self.training or torch.jit.is_tracing() or torch.compiler.is_compiling()):  # in training a hook decides
            ends = [end for scores in (logits, iou) if scores.numel() for end in torch.aminmax(scores.detach())]
            if not all(bool(torch.isfinite(end)) for end in ends):
                raise ValueError('Segment Anything predicts NaN or infinite masks: the checkpoint, the image or a prompt holds them')
        return logits, iou

    def _decode(self, side: ImageSide, maps: tuple[Tensor, Tensor] | None, tokens: Tensor, image_index: Tensor | None,
                valid: Tensor | None, masks: list[int], grid: tuple[int, int], logits: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits and predicted IoU of prompts that share what ``side`` holds, or have the sum of two ``maps`` of their own."""
        cells = None
        if maps is not None:
            own = maps[0] if image_index is None else maps[0][image_index]
            cells = (own + maps[1]).flatten(2).transpose(1, 2).contiguous()
        out, cells = self.transformer(side, tokens, cells, image_index, valid, [0] + [1 + mask for mask in masks])
        return self.to_masks(cells, self._vectors(out, masks), grid, logits), self.iou_prediction_head(out[:, 0])[:, masks]

    def _vectors(self, out: Tensor, masks: list[int]) -> Tensor:
        """(P, M, C / 8) vectors of the masks from the tokens (P, 1 + M, C) that the transformer gives."""
        return torch.stack([self.output_hypernetworks_mlps[mask](out[:, 1 + place]) for place, mask in enumerate(masks)], dim=1)

    @torch.no_grad()
    def confident(self, image_side: ImageSide, sparse_prompt_embeddings: Tensor, grid: tuple[int, int],
                  min_iou: float | None) -> tuple[Tensor, Tensor]:
        """The masks of many prompts on one image that are predicted to be good; the map is enlarged for prompts with such a mask alone.

        Numbers are those of :meth:`forward` with ``multimask_output``. The official code makes all masks and drops most of them.

        Args:
            image_side: what :meth:`prepare` made of the image and the map for no mask.
            sparse_prompt_embeddings: (P, T, C).
            grid: (h, w) of the map.
            min_iou: predicted IoUs above it are good; None: all.

        Returns:
            logits (K, 4h, 4w) of the good masks, in the order of the prompts, and predicted IoU (P, M) of all.
        """
        output_tokens = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        masks, logits, ious = list(range(1, self.num_mask_tokens)), [], []
        step = PROMPTS if sparse_prompt_embeddings.device.type == 'cpu' else len(sparse_prompt_embeddings)
        for sparse in sparse_prompt_embeddings.split(max(step, 1)):
            tokens = torch.cat([output_tokens.expand(len(sparse), -1, -1), sparse.to(output_tokens.dtype)], dim=1)
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

    def to_masks(self, cells: Tensor, hyper: Tensor, grid: tuple[int, int], out: Tensor | None = None) -> Tensor:
        """Enlarge the maps four times and multiply them by the vectors of the masks.

        A transposed convolution whose kernel is its stride is a product: every cell becomes four, none of which sees another.

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
            small = cells.new_empty(*hyper.shape[:2], cells.shape[1], 16)
            for index in range(len(cells)):
                for start in range(0, cells.shape[1], CELLS):
                    part = _enlarge(cells[index:index + 1, start:start + CELLS], *steps, hyper[index:index + 1])
                    small[index, :, start:start + CELLS] = part.unflatten(2, (-1, 16))[0]
        else:
            small = _enlarge(cells, *steps, hyper)
        # cell row and column, row and column after the first step, after the second
        small = small.view(-1, hyper.shape[1], height, width, 2, 2, 2, 2).permute(0, 1, 2, 4, 6, 3, 5, 7)
        if out is None:
            return small.reshape(-1, hyper.shape[1], 4 * height, 4 * width)
        out.view(small.shape).copy_(small)
        return out


def _few_of_one_image(index: list[int]) -> list[slice]:
    """Runs of at most ``PROMPTS`` prompts of the same image, in order."""
    starts = [0]
    for number in range(1, len(index)):
        if index[number] != index[number - 1] or number - starts[-1] == PROMPTS:
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


def _enlarge(cells: Tensor, weight1: Tensor, bias1: Tensor, norm: LayerNorm2d, weight2: Tensor, bias2: Tensor, hyper: Tensor) -> Tensor:
    """Cells (P, n, C) and vectors (P, M, C / 8) to (P, M, n * 16)."""
    x = F.gelu(norm.rows(F.linear(cells, weight1, bias1).unflatten(-1, (4, -1))))
    x = F.gelu(F.linear(x, weight2, bias2)).unflatten(-1, (4, -1))
    return hyper @ x.flatten(1, 3).transpose(1, 2)
