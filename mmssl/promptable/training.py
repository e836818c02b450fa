"""Interactive training and evaluation of Segment Anything (Kirillov et al., ICCV 2023, arXiv:2304.02643, section 3 and appendix A).

A user is simulated: a first point or rough box, then points where the last mask was wrong, with the last mask
    handed back. The image is
encoded once; all rounds of all its masks share the embedding.
"""

import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement, InstanceData
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mmssl.layers.memory_format import memory_format_of
from mmssl.promptable.automatic import SamAutomaticMaskGenerator
from mmssl.promptable.embeddings import EmbeddingCache
from mmssl.promptable.lora import add_lora, plain_state_dict
from mmssl.promptable.losses import MaskLosses
from mmssl.promptable.prompts import boxes_of, error_points, noisy_boxes, pick_pixels, silent_rounds, uniform
from mmssl.promptable.sam import SAM
from mmssl.promptable.simulation import ClickSimulation
from mmssl.registry import MODELS, build

TUNE = ('all', 'decoder', 'lora')


@MODELS.register_module()
class InteractiveSAM(BaseModel):
    """A SAM in mmengine's Runner: learns from simulated users and is evaluated by them; no host trains one.

    Its parts are the SAM's own, so that checkpoints have the official names. Files of a backbone alone
    (``backbone.*``) load too. Images (B, 3, H, W) come normalised, are padded to the encoder's square at the
    bottom and the right, and are encoded once.

    Args:
        model: of the SAM, ``dict(type='mmssl.SAM', ...)``, or a built one.
        rounds: prompts and predictions a mask, the first included; 11 in the paper.
        silent_rounds: rounds among them that bring no new prompt: 2 (one anywhere, and the last), 1 (the
            last) or 0.
        max_masks: of an image in training; more are drawn from.
        box_prob: how often the first prompt is a box; otherwise a point.
        ambiguous: first prompts that may mean several things, answered by the best of three masks: 'point',
            'box'.
        loss_size: side of the square that masks are compared on in training; None: the decoder's own output,
            which is 4 times the embedding's side. Masks of data are reduced to it.
        losses: arguments of :class:`mmssl.promptable.losses.MaskLosses`.
        checkpoint_rounds: compute a round again in the backward pass; memory then does not grow with the
            rounds.
        tune: 'all', 'decoder' (the encoder is frozen; its embeddings can be kept in ``cache_dir``), or 'lora'
            (low-rank updates in the encoder's attention; prompt encoder and decoder learn in full).
        lora: arguments of :func:`mmssl.promptable.lora.add_lora`.
        cache_dir: folder for embeddings of a frozen encoder.
        clicks: arguments of :class:`mmssl.promptable.simulation.ClickSimulation`, the evaluation; a box is
            answered by the best of three masks where it is in training.
        automatic: arguments of :class:`mmssl.promptable.SamAutomaticMaskGenerator`; evaluation then makes
            automatic masks too, for ``dict(type='mmssl.AverageRecall', field='automatic')``. None: it does
            not.
        data_preprocessor, init_cfg: of mmengine's BaseModel.

    Raises:
        ValueError: an argument out of range; ``cache_dir`` with an encoder that learns.
    """

    def __init__(
        self,
        model: dict | torch.nn.Module,
        rounds: int = 11,
        silent_rounds: int = 2,
        max_masks: int = 64,
        box_prob: float = 0.5,
        ambiguous: tuple[str, ...] = ('point', 'box'),
        loss_size: int | None = None,
        losses: dict | None = None,
        checkpoint_rounds: bool = False,
        tune: str = 'all',
        lora: dict | None = None,
        cache_dir: str | None = None,
        clicks: dict | None = None,
        automatic: dict | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | list | None = None,
    ):
        super().__init__(data_preprocessor, init_cfg)
        if tune not in TUNE:
            raise ValueError(f'tune={tune!r} of InteractiveSAM; one of {", ".join(TUNE)}')
        if cache_dir and tune != 'decoder':
            raise ValueError(
                f"cache_dir keeps embeddings of an encoder that does not change; tune={tune!r} trains it: tune='decoder'"
            )
        if max_masks < 1 or not 0 <= box_prob <= 1:
            raise ValueError(
                f'max_masks={max_masks} of InteractiveSAM must be at least 1, and box_prob={box_prob} in [0, 1]'
            )
        if not set(ambiguous) <= {'point', 'box'}:
            raise ValueError(f"ambiguous={ambiguous!r} of InteractiveSAM; 'point', 'box', both or none")
        _silent(rounds, silent_rounds, 0.0)
        sam = build(model, MODELS)
        self.image_encoder, self.prompt_encoder, self.mask_decoder = (
            sam.image_encoder,
            sam.prompt_encoder,
            sam.mask_decoder,
        )
        for name in ('pixel_mean', 'pixel_std'):
            self.register_buffer(name, getattr(sam, name), persistent=False)
        if init_cfg is None:
            self.init_cfg = sam.init_cfg
        self.rounds, self.silent_rounds, self.max_masks, self.box_prob = (
            rounds,
            silent_rounds,
            max_masks,
            box_prob,
        )
        self.ambiguous, self.loss_size, self.checkpoint_rounds, self.tune = (
            tuple(ambiguous),
            loss_size,
            checkpoint_rounds,
            tune,
        )
        self.mask_losses = MaskLosses(**(losses or {}))
        self.simulation = ClickSimulation(**{'box_multimask': 'box' in self.ambiguous, **(clicks or {})})
        self.cache = EmbeddingCache(cache_dir) if cache_dir else None
        self.automatic = None if automatic is None else {**automatic, 'output_mode': 'coco_rle'}
        if tune != 'all':
            self.image_encoder.requires_grad_(False)
        if tune == 'lora':
            add_lora(self.image_encoder, **(lora or {}))
        self.memory_format = memory_format_of(self.image_encoder)
        if self.automatic is not None:  # what is wrong with them is said now
            SamAutomaticMaskGenerator(self, **self.automatic)
        self.register_load_state_dict_pre_hook(_take_backbone)

    @property
    def img_size(self) -> int:
        """Side of the square that images are padded to, in pixels."""
        return self.prompt_encoder.input_image_size[0]

    def train(self, mode: bool = True):
        """As torch's; a frozen encoder stays in evaluation."""
        super().train(mode)
        if self.tune == 'decoder':
            self.image_encoder.eval()
        return self

    def get_layer_depth(self, name: str) -> tuple[int, int]:
        """Depth of a parameter and number of depths, for the layer decay of :class:`mmssl.MergedOptimWrapperConstructor`.

        Embedding 0, block i of the image encoder i + 1; its neck, the prompt encoder and the decoder are the
        last.
        """
        inner = getattr(self.image_encoder, 'backbone', None)
        for module, prefix in ((self.image_encoder, 'image_encoder.'), (inner, 'image_encoder.backbone.')):
            if module is not None and hasattr(module, 'get_layer_depth'):
                depth, depths = module.get_layer_depth(name, prefix)
                return (depth if name.startswith(prefix) else depths - 1), depths
        raise ValueError(
            f'layer_decay_rate needs an image encoder of numbered blocks; {type(inner or self.image_encoder).__name__} has no '
            'get_layer_depth'
        )

    def export_state_dict(self) -> dict[str, Tensor]:
        """Weights in the official names, low-rank updates merged: for ``build_sam`` and for ``segment_anything``."""
        names = ('image_encoder.', 'prompt_encoder.', 'mask_decoder.')
        return {name: value for name, value in plain_state_dict(self).items() if name.startswith(names)}

    def to_sam(self) -> SAM:
        """A :class:`mmssl.SAM` of the same parts, for ``SamPredictor`` and ``SamAutomaticMaskGenerator``; nothing is copied."""
        pixels = {name: getattr(self, name).flatten().tolist() for name in ('pixel_mean', 'pixel_std')}
        return SAM(self.image_encoder, self.prompt_encoder, self.mask_decoder, **pixels).to(
            self.pixel_mean.device
        )

    def forward(
        self, inputs: Tensor, data_samples: list[BaseDataElement] | None = None, mode: str = 'tensor'
    ):
        """Embeddings, losses or results.

        Args:
            inputs: (B, 3, H, W), normalised.
            data_samples: one an image, with ``gt_instances.masks`` (N, H, W) bool.
            mode: 'tensor', (B, C, h, w) embeddings; 'loss'; 'predict'.
        """
        if mode == 'loss':
            if data_samples is None:
                raise ValueError("mode='loss' of InteractiveSAM needs data_samples, one an image")
            return self.loss(inputs, data_samples)
        if mode == 'predict':
            return self.predict(inputs, data_samples)
        if mode == 'tensor':
            return self.embed(inputs)
        raise ValueError(f"mode={mode!r} of InteractiveSAM; 'tensor', 'loss' or 'predict'")

    def embed(self, inputs: Tensor) -> Tensor:
        """(B, C, h, w) embeddings of images (B, 3, H, W), padded to the square; from the cache where there is one."""
        height, width = inputs.shape[-2:]
        if max(height, width) > self.img_size:
            raise ValueError(
                f'images of {height}x{width} do not fit into the square of {self.img_size}; resize them with '
                f"dict(type='mmssl.ResizeLongest', scale={self.img_size})"
            )
        inputs = F.pad(inputs, (0, self.img_size - width, 0, self.img_size - height)).contiguous(
            memory_format=self.memory_format
        )
        if self.cache is not None:
            return self.cache(self.image_encoder, inputs)
        return self.image_encoder(inputs)

    def decode(
        self, embeddings: Tensor, index: Tensor, sparse: Tensor, dense: Tensor, multimask: bool
    ) -> tuple[Tensor, Tensor]:
        """Masks of prompts.

        Args:
            embeddings: (B, C, h, w).
            index: (N,) image of every prompt.
            sparse, dense: (N, T, C) and (N, C, h, w) of the prompt encoder.
            multimask: three masks, or the single one.

        Returns:
            logits (N, M, 4h, 4w) and predicted IoUs (N, M), M = 3 or 1.
        """
        return self.mask_decoder(
            embeddings,
            self.prompt_encoder.get_dense_pe(),
            sparse,
            dense,
            multimask,
            image_index=None if len(embeddings) == 1 else index,
        )

    def encode_prompts(
        self, points: Tensor, labels: Tensor, boxes: Tensor, masks: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Prompts of which the first K have boxes; both kinds then have as many tokens.

        Args:
            points, labels: (N, P, 2) pixels and (N, P), where a prompt with a box ignores its first point; P
                >= 1.
            boxes: (K, 4), K <= N.
            masks: (N, 1, 4h, 4w) logits, or None.

        Returns:
            sparse (N, P + 1, C), dense (N, C, h, w).
        """
        count = len(boxes)
        encoded = []
        if count:
            clicks = (points[:count, 1:], labels[:count, 1:]) if points.shape[1] > 1 else None
            encoded.append(
                self.prompt_encoder(
                    points=clicks, boxes=boxes, masks=None if masks is None else masks[:count]
                )
            )
        if count < len(points):
            encoded.append(
                self.prompt_encoder(
                    points=(points[count:], labels[count:]),
                    boxes=None,
                    masks=None if masks is None else masks[count:],
                )
            )
        if len(encoded) == 1:
            return encoded[0]
        sparse, dense = (torch.cat(parts) for parts in zip(*encoded, strict=True))
        return sparse, dense if masks is not None else self.prompt_encoder.no_mask(len(sparse))

    def loss(
        self, inputs: Tensor, data_samples: list[BaseDataElement], generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Losses of all rounds, each the mean over rounds and masks.

        Args:
            inputs: (B, 3, H, W), normalised.
            data_samples: with ``gt_instances.masks`` (N, h, w) bool at the size of the image.
            generator: of all draws; torch's own when None.

        Returns:
            'loss_focal', 'loss_dice', 'loss_iou', weighted; 'iou_first' and 'iou_last', of the best mask, for
            the log.
        """
        embeddings = self.embed(inputs)
        targets, index, valid = self._targets(data_samples, inputs.device, generator)
        if not len(targets):
            nothing = embeddings.sum() * 0 + sum(
                parameter.sum() * 0 for parameter in self.parameters() if parameter.requires_grad
            )
            return {f'loss_{name}': nothing for name in ('focal', 'dice', 'iou')}
        as_box = uniform(len(targets), 1, targets.device, generator).squeeze(1) < self.box_prob
        order = (~as_box).long().argsort(stable=True)  # prompts with boxes first
        targets, index, as_box, valid = targets[order], index[order], as_box[order], valid[index[order]]
        losses = self._rounds(embeddings, targets, index, valid, int(as_box.sum()), generator)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            # a batch need not ask for three masks and for one; every process must have gradients of the same
            # parameters
            losses['loss_iou'] = losses['loss_iou'] + 0 * sum(
                parameter.sum() for parameter in self.mask_decoder.parameters()
            )
        return losses

    def _targets(self, data_samples, device, generator) -> tuple[Tensor, Tensor, Tensor]:
        """(N, S, S) masks on the padded square, (N,) image of each, (B, S, S) where the images are."""
        size = self.img_size
        targets, index = [], []
        valid = torch.zeros(len(data_samples), size, size, dtype=torch.bool, device=device)
        for number, sample in enumerate(data_samples):
            masks = sample.gt_instances.masks
            height, width = masks.shape[1:]
            if (height, width) != tuple(sample.img_shape[:2]):
                raise ValueError(
                    f'{sample.get("img_path")}: masks of {height}x{width} for an image of {sample.img_shape[0]}x'
                    f'{sample.img_shape[1]}; put LoadMasks before ResizeLongest in the pipeline of training'
                )
            valid[number, :height, :width] = True
            masks = masks[masks.flatten(1).any(1)] if len(masks) else masks
            if len(masks) > self.max_masks:
                masks = masks[uniform(1, len(masks), masks.device, generator)[0].argsort()[: self.max_masks]]
            targets.append(F.pad(masks, (0, size - width, 0, size - height)))
            index += [number] * len(masks)
        return torch.cat(targets).to(device), torch.tensor(index, dtype=torch.long, device=device), valid

    def _rounds(
        self, embeddings: Tensor, targets: Tensor, index: Tensor, valid: Tensor, num_boxes: int, generator
    ) -> dict[str, Tensor]:
        device, size = targets.device, self.img_size
        side = self.loss_size or self.prompt_encoder.mask_input_size[0]
        small, small_valid = reduce_masks(targets, side), reduce_masks(valid, side)
        scale = size / side

        first = pick_pixels(targets, uniform(len(targets), 1, device, generator).squeeze(1)).float()
        points, labels = first[:, None], torch.ones(len(targets), 1, dtype=torch.long, device=device)
        boxes = boxes_of(targets[:num_boxes])
        boxes = noisy_boxes(boxes, (size, size), _normal(num_boxes, 4, device, generator))
        silent = _silent(
            self.rounds, self.silent_rounds, float(uniform(1, 1, torch.device('cpu'), generator))
        )

        # both kinds are decoded apart in the first round, which three masks may answer, and together
        # afterwards
        kinds = {'box': slice(0, num_boxes), 'point': slice(num_boxes, len(targets))}
        kinds = {kind: rows for kind, rows in kinds.items() if rows.stop > rows.start}
        total: dict[str, Tensor] = {}
        prompt = chosen = None
        for number in range(self.rounds):
            if chosen is not None and number not in silent:
                point, label = error_points(
                    chosen > 0, small, small_valid, uniform(len(targets), 1, device, generator).squeeze(1)
                )
                points = torch.cat([points, ((point + 0.5) * scale - 0.5)[:, None]], dim=1)
                labels = torch.cat([labels, label[:, None]], dim=1)
            groups = kinds if number == 0 else {'all': slice(0, len(targets))}
            results = [
                self._round(
                    embeddings,
                    index[rows],
                    points[rows],
                    labels[rows],
                    boxes[rows],
                    prompt,
                    small[rows],
                    number == 0 and kind in self.ambiguous,
                )
                for kind, rows in groups.items()
            ]
            result = {name: torch.cat([part[name] for part in results]) for name in results[0]}
            prompt = result.pop('prompt')
            chosen = resized(prompt, side)[:, 0]
            for name in ('focal', 'dice', 'iou'):
                total[f'loss_{name}'] = total.get(f'loss_{name}', 0.0) + result[name].mean() / self.rounds
            if number in (0, self.rounds - 1):
                total['iou_first' if number == 0 else 'iou_last'] = result['true_iou'].mean()
        return total

    def _round(
        self, embeddings, index, points, labels, boxes, prompt, target, multimask: bool
    ) -> dict[str, Tensor]:
        """Losses (N,) of one decoder call, the logits of the most confident mask as the next prompt, and its IoU."""

        def compute(embeddings, prompt):
            sparse, dense = self.encode_prompts(points, labels, boxes, prompt)
            logits, ious = self.decode(embeddings, index, sparse, dense, multimask)
            return logits, ious, self.mask_losses(resized(logits, target.shape[-1]), ious, target)

        if self.checkpoint_rounds and torch.is_grad_enabled():
            logits, ious, losses = checkpoint(compute, embeddings, prompt, use_reentrant=False)
        else:
            logits, ious, losses = compute(embeddings, prompt)
        best = ious.detach().argmax(1, keepdim=True)
        losses['true_iou'] = losses.pop('true_ious').gather(1, best).squeeze(1)
        losses['prompt'] = logits.detach()[torch.arange(len(best), device=best.device), best[:, 0]][
            :, None
        ].float()
        return losses

    @torch.no_grad()
    def predict(self, inputs: Tensor, data_samples: list[BaseDataElement]) -> list[BaseDataElement]:
        """Let simulated users click, at the size of the files.

        Args:
            inputs: (B, 3, H, W), normalised.
            data_samples: with ``gt_instances.masks`` (N, H, W) bool, ``img_shape`` and, where masks have
                another size, ``ori_shape``.

        Returns:
            samples with ``pred_instances``, see :meth:`mmssl.promptable.simulation.ClickSimulation.__call__`;
            with ``automatic`` also 'automatic', with 'masks', a list of run lengths at the size of the file,
            and 'scores', their predicted IoU.
        """
        embeddings = self.embed(inputs)
        generator = None if self.automatic is None else SamAutomaticMaskGenerator(self, **self.automatic)
        for number, sample in enumerate(data_samples):
            if 'gt_instances' not in sample:
                raise ValueError(
                    f'{sample.get("img_path")} has no masks to click at; evaluation needs LoadMasks in the pipeline, and '
                    'SamPredictor takes images alone'
                )
            sample.pred_instances = InstanceData(
                **self.simulation(
                    self,
                    embeddings[number : number + 1],
                    sample.gt_instances.masks,
                    tuple(sample.img_shape[:2]),
                )
            )
            if generator is not None:
                found = generator.generate_encoded(
                    embeddings[number : number + 1], sample.img_shape[:2], sample.gt_instances.masks.shape[1:]
                )
                sample.automatic = InstanceData(
                    masks=[record['segmentation'] for record in found],
                    scores=torch.tensor([record['predicted_iou'] for record in found]),
                )
        return data_samples


def reduce_masks(masks: Tensor, side: int) -> Tensor:
    """Masks on a smaller square: half of a cell must be set, or any of it where the mask would vanish.

    Args:
        masks: (N, S, S) bool.
        side: of the result, in cells.

    Returns:
        (N, side, side) bool.
    """
    if side == masks.shape[-1] or not len(masks):
        return masks[..., :side, :side]
    share = F.adaptive_avg_pool2d(masks[:, None].float(), side)[:, 0]
    reduced = share >= 0.5
    return torch.where(reduced.flatten(1).any(1)[:, None, None], reduced, share > 0)


def resized(logits: Tensor, side: int) -> Tensor:
    """(N, M, h, w) logits, bilinear to (N, M, side, side)."""
    return (
        logits
        if logits.shape[-1] == side
        else F.interpolate(logits.float(), (side, side), mode='bilinear', align_corners=False)
    )


def _normal(count: int, width: int, device, generator) -> Tensor:
    place = generator.device if generator is not None else device
    return torch.randn(count, width, generator=generator, device=place).to(device)


_silent = silent_rounds


def _take_backbone(module, state_dict, prefix, *_) -> None:
    """Weights of a backbone alone, ``backbone.*``, go to the image encoder's, and nothing else is asked of such a file."""
    if prefix or any(name.startswith('image_encoder.') for name in state_dict):
        return
    inside = 'image_encoder.backbone.' if hasattr(module.image_encoder, 'backbone') else 'image_encoder.'
    for name in [name for name in state_dict if name.startswith('backbone.')]:
        state_dict[inside + name.removeprefix('backbone.')] = state_dict.pop(name)
