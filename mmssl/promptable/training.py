"""Interactive training and evaluation of Segment Anything (Kirillov et al., ICCV 2023, arXiv:2304.02643).

A simulated user gives a first point or a rough box, then points where the last mask was wrong, together with
the last mask (section 3 and appendix A). Each image is encoded once; all rounds of all its masks share the
embedding.
"""

import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement, InstanceData
from torch import Tensor

from mmssl.layers.lora import add_lora, plain_state_dict
from mmssl.layers.memory_format import memory_format_of
from mmssl.promptable.automatic import SamAutomaticMaskGenerator
from mmssl.promptable.embeddings import EmbeddingCache
from mmssl.promptable.losses import MaskLosses
from mmssl.promptable.prompts import silent_rounds as rounds_without_prompt
from mmssl.promptable.rounds import interactive_losses, reduce_masks
from mmssl.promptable.sam import SAM
from mmssl.promptable.several_images import decode_by_index
from mmssl.promptable.simulation import ClickSimulation
from mmssl.promptable.targets import draw_targets
from mmssl.registry import MODELS, build

__all__ = ['InteractiveSAM', 'reduce_masks']

TUNE = ('all', 'decoder', 'lora')


@MODELS.register_module()
class InteractiveSAM(BaseModel):
    """A SAM in mmengine's Runner that is trained and evaluated by simulated users.

    Its parts are those of the SAM, so that checkpoints have the official names. Files with only a backbone
    (``backbone.*``) load too. Images (B, 3, H, W) come normalised and are padded to the square of the encoder
    at the bottom and on the right.

    Args:
        model: A SAM or its config, ``dict(type='mmssl.SAM', ...)``.
        rounds: Number of prompts and predictions for each mask, the first included; 11 in the paper.
        silent_rounds: Number of rounds that bring no new prompt: 2 (one anywhere, and the last), 1 (the last)
            or 0.
        max_masks: Largest number of masks of an image in training, drawn at random if there are more.
        box_prob: Probability that the first prompt is a box; otherwise it is a point.
        ambiguous: First prompts for which the best of three masks is trained: 'point', 'box'.
        loss_size: Side of the square on which masks are compared in training; None for that of the decoder's
            output. Masks of the data are reduced to it.
        losses: Arguments of :class:`mmssl.promptable.losses.MaskLosses`.
        checkpoint_rounds: Compute each round again in the backward pass, so that memory does not grow with
            their number.
        tune: 'all'; 'decoder' for a frozen encoder, whose embeddings ``cache_dir`` can keep; 'lora' for
            low-rank updates in the attention of the encoder, with prompt encoder and decoder trained in full.
        lora: Arguments of :func:`mmssl.layers.lora.add_lora`.
        cache_dir: Folder for embeddings of a frozen encoder.
        clicks: Arguments of :class:`mmssl.promptable.simulation.ClickSimulation`, the evaluation; a box gets
            the best of three masks if it does in training.
        automatic: Arguments of :class:`mmssl.promptable.SamAutomaticMaskGenerator`; evaluation then generates
            automatic masks too, for ``dict(type='mmssl.AverageRecall', field='automatic')``. None for no such
            masks.
        data_preprocessor: Passed on to mmengine's BaseModel.
        init_cfg: Passed on to mmengine's BaseModel; that of the SAM if None.

    Attributes:
        host_syncs: How often a training step may wait for the GPU; ``cache_dir`` waits for every image too.

    Raises:
        ValueError: An argument out of range, or ``cache_dir`` with an encoder that is trained.
    """

    host_syncs = 2

    def __init__(  # noqa: PLR0913  called by configs
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
                f'cache_dir keeps embeddings of an encoder that does not change; tune={tune!r} trains it: '
                "tune='decoder'"
            )
        if max_masks < 1 or not 0 <= box_prob <= 1:
            raise ValueError(
                f'max_masks={max_masks} of InteractiveSAM must be at least 1, and box_prob={box_prob} in '
                '[0, 1]'
            )
        if not set(ambiguous) <= {'point', 'box'}:
            raise ValueError(f"ambiguous={ambiguous!r} of InteractiveSAM; 'point', 'box', both or none")
        rounds_without_prompt(rounds, silent_rounds, 0.0)  # raises for numbers out of range
        sam = build(model, MODELS)
        self.image_encoder = sam.image_encoder
        self.prompt_encoder = sam.prompt_encoder
        self.mask_decoder = sam.mask_decoder
        self.register_buffer('pixel_mean', sam.pixel_mean, persistent=False)
        self.register_buffer('pixel_std', sam.pixel_std, persistent=False)
        if init_cfg is None:
            self.init_cfg = sam.init_cfg
        self.rounds = rounds
        self.silent_rounds = silent_rounds
        self.max_masks = max_masks
        self.box_prob = box_prob
        self.ambiguous = tuple(ambiguous)
        self.loss_size = loss_size
        self.checkpoint_rounds = checkpoint_rounds
        self.tune = tune
        self.mask_losses = MaskLosses(**(losses or {}))
        self.simulation = ClickSimulation(**{'box_multimask': 'box' in self.ambiguous, **(clicks or {})})
        self.cache = EmbeddingCache(cache_dir) if cache_dir else None
        self.automatic = None if automatic is None else {**automatic, 'output_mode': 'coco_rle'}
        if tune != 'all':
            self.image_encoder.requires_grad_(False)
        if tune == 'lora':
            add_lora(self.image_encoder, **(lora or {}))
        self.memory_format = memory_format_of(self.image_encoder)
        if self.automatic is not None:  # wrong arguments are reported before training
            SamAutomaticMaskGenerator(self, **self.automatic)
        self.register_load_state_dict_pre_hook(_rename_backbone)

    @property
    def img_size(self) -> int:
        """Side of the square that images are padded to, in pixels."""
        return self.prompt_encoder.input_image_size[0]

    def train(self, mode: bool = True):
        """As ``nn.Module.train``; a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self.tune == 'decoder':
            self.image_encoder.eval()
        return self

    def get_layer_depth(self, name: str) -> tuple[int, int]:
        """Depth of a parameter and number of depths, for layer-wise decay of the learning rate.

        The embedding has depth 0, block i of the image encoder i + 1; its neck, the prompt encoder and the
        decoder have the last depth.
        """
        backbone = getattr(self.image_encoder, 'backbone', None)
        for module, prefix in (
            (self.image_encoder, 'image_encoder.'),
            (backbone, 'image_encoder.backbone.'),
        ):
            if module is not None and hasattr(module, 'get_layer_depth'):
                depth, depths = module.get_layer_depth(name, prefix)
                return (depth if name.startswith(prefix) else depths - 1), depths
        raise ValueError(
            f'layer_decay_rate needs an image encoder of numbered blocks; '
            f'{type(backbone or self.image_encoder).__name__} has no get_layer_depth'
        )

    def export_state_dict(self) -> dict[str, Tensor]:
        """Weights under the official names, with low-rank updates merged, for ``build_sam``."""
        names = ('image_encoder.', 'prompt_encoder.', 'mask_decoder.')
        return {name: value for name, value in plain_state_dict(self).items() if name.startswith(names)}

    def to_sam(self) -> SAM:
        """A :class:`mmssl.SAM` of the same parts; nothing is copied."""
        pixels = {name: getattr(self, name).flatten().tolist() for name in ('pixel_mean', 'pixel_std')}
        sam = SAM(self.image_encoder, self.prompt_encoder, self.mask_decoder, **pixels)
        return sam.to(self.pixel_mean.device)

    def forward(
        self, inputs: Tensor, data_samples: list[BaseDataElement] | None = None, mode: str = 'tensor'
    ):
        """Return embeddings, losses or predictions.

        Args:
            inputs: (B, 3, H, W), normalised.
            data_samples: A sample for each image, with ``gt_instances.masks`` (N, H, W) bool.
            mode: 'tensor' for embeddings (B, C, h, w), 'loss' or 'predict'.
        """
        if mode == 'loss':
            if data_samples is None:
                raise ValueError("mode='loss' of InteractiveSAM needs data_samples, one for each image")
            return self.loss(inputs, data_samples)
        if mode == 'predict':
            return self.predict(inputs, data_samples)
        if mode == 'tensor':
            return self.embed(inputs)
        raise ValueError(f"mode={mode!r} of InteractiveSAM; 'tensor', 'loss' or 'predict'")

    def embed(self, inputs: Tensor) -> Tensor:
        """Encode images (B, 3, H, W), padded to the square, to (B, C, h, w), or read them from the cache."""
        height, width = inputs.shape[-2:]
        if max(height, width) > self.img_size:
            raise ValueError(
                f'images of {height}x{width} do not fit into the square of {self.img_size}; resize them with '
                f"dict(type='mmssl.ResizeLongest', scale={self.img_size})"
            )
        padded = F.pad(inputs, (0, self.img_size - width, 0, self.img_size - height))
        padded = padded.contiguous(memory_format=self.memory_format)
        return self.image_encoder(padded) if self.cache is None else self.cache(self.image_encoder, padded)

    def decode(
        self, embeddings: Tensor, index: Tensor, sparse: Tensor, dense: Tensor, multimask: bool
    ) -> tuple[Tensor, Tensor]:
        """Decode prompts.

        Args:
            embeddings: (B, C, h, w).
            index: (N,) image of each prompt.
            sparse: (N, T, C) of the prompt encoder.
            dense: (N, C, h, w) of the prompt encoder, or (1, C, h, w) if no prompt has a mask.
            multimask: Predict three masks instead of the single one.

        Returns:
            Logits (N, M, 4h, 4w) and predicted IoU (N, M), M = 3 or 1.
        """
        image_pe = self.prompt_encoder.get_dense_pe()
        return decode_by_index(self.mask_decoder, embeddings, image_pe, sparse, dense, multimask, index)

    def encode_prompts(
        self, points: Tensor, labels: Tensor, boxes: Tensor, masks: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Encode prompts of which the first K have boxes; all have the same number of tokens.

        Args:
            points: (N, P, 2) in pixels, P >= 1; the first point of a prompt with a box is ignored.
            labels: (N, P).
            boxes: (K, 4), K <= N.
            masks: (N, 1, 4h, 4w) logits, or None.

        Returns:
            Sparse (N, P + 1, C); dense (N, C, h, w), or (1, C, h, w) without masks.
        """
        count = len(boxes)
        encoded = []
        if count:
            clicks = (points[:count, 1:], labels[:count, 1:]) if points.shape[1] > 1 else None
            box_masks = None if masks is None else masks[:count]
            encoded.append(self.prompt_encoder(points=clicks, boxes=boxes, masks=box_masks))
        if count < len(points):
            point_masks = None if masks is None else masks[count:]
            clicks = (points[count:], labels[count:])
            encoded.append(self.prompt_encoder(points=clicks, boxes=None, masks=point_masks))
        sparse = torch.cat([sparse for sparse, _ in encoded])
        if masks is None:  # one dense embedding for all prompts
            return sparse, encoded[0][1][:1]
        return sparse, torch.cat([dense for _, dense in encoded])

    def loss(
        self, inputs: Tensor, data_samples: list[BaseDataElement], generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Losses of all rounds, averaged over rounds and masks.

        Args:
            inputs: (B, 3, H, W), normalised.
            data_samples: Samples with ``gt_instances.masks`` (N, h, w) bool at the size of the image.
            generator: Source of all random numbers; that of torch if None.

        Returns:
            'loss_focal', 'loss_dice' and 'loss_iou', weighted; 'iou_first' and 'iou_last' of the most
            confident mask, for the log.
        """
        embeddings = self.embed(inputs)
        targets = draw_targets(
            data_samples, self.img_size, self.max_masks, self.box_prob, inputs.device, generator
        )
        if not len(targets.masks):
            zero = embeddings.sum() * 0
            zero = zero + sum(value.sum() * 0 for value in self.parameters() if value.requires_grad)
            return {f'loss_{name}': zero for name in ('focal', 'dice', 'iou')}
        losses = interactive_losses(self, embeddings, targets, generator)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            # a batch may need only three masks or only one, but all processes need the same gradients
            unused = sum(parameter.sum() for parameter in self.mask_decoder.parameters())
            losses['loss_iou'] = losses['loss_iou'] + 0 * unused
        return losses

    @torch.no_grad()
    def predict(self, inputs: Tensor, data_samples: list[BaseDataElement]) -> list[BaseDataElement]:
        """Let simulated users click, at the size of the files.

        Args:
            inputs: (B, 3, H, W), normalised.
            data_samples: Samples with ``gt_instances.masks`` (N, H, W) bool, ``img_shape`` and, if masks have
                another size, ``ori_shape``.

        Returns:
            The samples with ``pred_instances``, see
            :meth:`mmssl.promptable.simulation.ClickSimulation.__call__`; with ``automatic`` also with
            'automatic': 'masks', a list of run lengths at the size of the file, and 'scores', their predicted
            IoU.
        """
        embeddings = self.embed(inputs)
        generator = None if self.automatic is None else SamAutomaticMaskGenerator(self, **self.automatic)
        for image, sample in enumerate(data_samples):
            if 'gt_instances' not in sample:
                raise ValueError(
                    f'{sample.get("img_path")} has no masks to click at; evaluation needs LoadMasks in the '
                    'pipeline, and SamPredictor takes images alone'
                )
            embedding, masks = embeddings[image : image + 1], sample.gt_instances.masks
            results = self.simulation(self, embedding, masks, tuple(sample.img_shape[:2]))
            sample.pred_instances = InstanceData(**results)
            if generator is not None:
                records = generator.generate_encoded(embedding, sample.img_shape[:2], masks.shape[1:])
                sample.automatic = InstanceData(
                    masks=[record['segmentation'] for record in records],
                    scores=torch.tensor([record['predicted_iou'] for record in records]),
                )
        return data_samples


def _rename_backbone(module, state_dict, prefix, *_) -> None:
    """Give weights of a backbone alone, ``backbone.*``, the names of the image encoder."""
    if prefix or any(name.startswith('image_encoder.') for name in state_dict):
        return
    target = 'image_encoder.backbone.' if hasattr(module.image_encoder, 'backbone') else 'image_encoder.'
    for name in [name for name in state_dict if name.startswith('backbone.')]:
        state_dict[target + name.removeprefix('backbone.')] = state_dict.pop(name)
