"""Features of pre-trained backbones, and classes if the model has a classifier."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmssl.apis.base import Source
from mmssl.apis.toolbox import ToolboxInferencer, class_info

if TYPE_CHECKING:
    from PIL import Image

TOP = 5
_INFERENCER_OF_SCOPE = {'mmdet': 'DetectionInferencer', 'mmseg': 'SegmentationInferencer'}


class FeatureInferencer(ToolboxInferencer):
    """Compute features with a pre-trained backbone, and class scores if the model has a classifier.

    A pre-training config reads images like ``mmssl knn`` (short edge resized, center crop, at the size that
    the backbone was made for); a classifier (``configs/*/benchmarks``) reads them through the pipeline of its
    test data, like ``mmssl test``.

    Args:
        config: A name of :func:`mmssl.apis.list_models`, a path, or a ``mmengine.Config``.
        checkpoint: Weights of the model, or of its backbone alone if it has no classifier; random if None.
        device: 'cpu', 'cuda:0', ...; a GPU if there is one when None.
        trust: Load a checkpoint that contains pickled code.
        pool: 'avg', the mean over positions, or 'cls', the class token; None for the class token of a
            backbone that returns only that, and 'avg' otherwise.
        image_size: Side of the crop in pixels, for pre-training configs; that of the backbone if None.

    Results:
        'features' (D,) float32; with a classifier also 'pred_label', 'pred_class', 'pred_score' and
        'pred_scores' (C,).

    Examples:
        >>> from mmssl.apis import FeatureInferencer
        >>> infer = FeatureInferencer('mae_vit-base-p16_8xb512-amp-coslr-300e_in1k', 'epoch_300.pth')
        >>> features = [result['features'] for result in infer('photos/', batch_size=32)]
    """

    def __init__(
        self,
        config: Any,
        checkpoint: str | os.PathLike | None = None,
        device: Any = None,
        trust: bool = False,
        pool: str | None = None,
        image_size: int | None = None,
    ):
        from mmssl.evaluation.features import POOLS

        if pool not in (None, *POOLS):
            raise ValueError(f'pool {pool!r} is unknown; one of {", ".join(POOLS)}')
        self.pool = pool
        self.image_size = image_size
        super().__init__(config, checkpoint, device, trust)

    def check_config(self, name: str) -> None:
        """Raise ValueError for configs of detectors, segmentors and prompted segmenters."""
        model_type = str(self.cfg.model.get('type')).removeprefix('mmssl.')
        fitting = _INFERENCER_OF_SCOPE.get(self.cfg.get('default_scope'))
        if model_type in ('InteractiveSAM', 'SAM'):
            fitting = 'PromptInferencer'
        if fitting:
            raise ValueError(
                f'{name} is no backbone to take features of: its model, {model_type}, is one of '
                f'mmssl.apis.{fitting}'
            )

    def prepare(self, checkpoint: str | None, trust: bool) -> None:
        """Create the model and what reads its images, and find the classes."""
        from mmssl.data.reader_settings import reader_settings
        from mmssl.data.transforms import LoadCenterCrop
        from mmssl.evaluation.features import image_size_of

        self.is_classifier = bool(self.test_dataset()) and self.cfg.model.get('head') is not None
        content = self.build(checkpoint, trust, backbone_only=not self.is_classifier)
        if self.is_classifier:
            num_classes = getattr(self.model.head, 'num_classes', None)
            self.classes = class_info(content, self.test_dataset(), num_classes).names
        else:
            image_size = self.image_size or image_size_of(self.model, self.cfg)
            self.crop = LoadCenterCrop(scale=image_size, **reader_settings(self.cfg))

    def predict(self, sources: Sequence[Source], files: Sequence[Path], **options: Any) -> list[dict]:
        """Compute features and classes; see the class."""
        import torch

        from mmssl.evaluation.features import extract_features

        if self.is_classifier:
            return self.test(files)
        images = [
            torch.from_numpy(self.crop(dict(img_path=str(file)))['img'].copy()).permute(2, 0, 1)
            for file in files
        ]
        batches = [(torch.stack(images), torch.zeros(len(images)))]
        features, _ = extract_features(self.model, batches, self.pool, progress=False)
        return [{'features': row} for row in features.numpy()]

    def run(self, batch: dict) -> list[dict]:
        """Return classes and features of a batch from a single pass through the backbone.

        A second pass is needed for a class token, or for patches, that the backbone does not return.
        """
        import torch

        from mmssl.evaluation.features import extract_features, outputs_to_pool, pool_features

        backbone = self.model.backbone
        outputs: list = []
        hook = backbone.register_forward_hook(lambda module, args, output: outputs.append(output))
        try:
            samples = self.model.test_step(batch)
        finally:
            hook.remove()
        if outputs_to_pool(backbone, self.pool) not in (None, getattr(backbone, 'out_type', None)):
            inputs = torch.stack(list(batch['inputs']))
            batches = [(inputs, inputs.new_zeros(len(inputs)))]
            features, _ = extract_features(self.model, batches, self.pool, progress=False)
        else:
            extra_tokens = getattr(backbone, 'num_extra_tokens', 1)
            features = pool_features(outputs[0], self.pool, extra_tokens).float().cpu()
        return [
            {'features': row, **self._class_scores(sample)}
            for sample, row in zip(samples, features.numpy(), strict=True)
        ]

    def _class_scores(self, sample: Any) -> dict:
        label = int(sample.pred_label.flatten()[0])
        scores = sample.pred_score.cpu().numpy()
        return {
            'pred_label': label,
            'pred_class': self.class_name(label),
            'pred_score': float(scores[label]),
            'pred_scores': scores,
        }

    def save(self, source: Source, file: Path, result: dict, folder: Path) -> None:
        """Write the image with its best classes; nothing without a classifier."""
        from mmssl.data.pictures import read_rgb
        from mmssl.visualization.files import write_image

        if 'pred_scores' not in result:
            return
        best = np.argsort(-result['pred_scores'], kind='stable')[:TOP]
        names = [self.class_name(label) for label in best]
        drawing = draw_scores(read_rgb(file, self.pictures), names, result['pred_scores'][best])
        write_image(drawing, folder / 'pictures' / f'{source.name}.png')


def draw_scores(
    image: np.ndarray, names: Sequence[str], scores: Sequence[float], height: int = 360
) -> 'Image.Image':
    """Draw an image with bars of class scores beneath it.

    Args:
        image: (H, W, 3) RGB.
        names: Names of the classes, best first.
        scores: Their scores, from 0 to 1.
        height: Height of the drawn image in pixels, without the bars.
    """
    from PIL import Image, ImageDraw, ImageFont

    from mmssl.data.colors import class_color

    width = max(160, round(image.shape[1] * height / image.shape[0]))
    font = ImageFont.load_default(size=14)
    line_height = 22
    canvas = Image.new('RGB', (width, height + line_height * len(names) + 4), 'white')
    canvas.paste(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC), (0, 0))
    draw = ImageDraw.Draw(canvas)
    for rank, (name, score) in enumerate(zip(names, scores, strict=True)):
        top = height + 4 + rank * line_height
        bar = (0, top, round(float(score) * (width - 1)), top + line_height - 5)
        draw.rectangle(bar, fill=class_color(0) if rank == 0 else '#c8d2dc')
        text = f'{float(score):.2f}  {name}'
        draw.text((4, top + line_height / 2 - 2), text, fill='black', font=font, anchor='lm')
    return canvas
