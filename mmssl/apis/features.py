"""Features of pre-trained backbones, and classes where the model has a head."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmssl.apis.base import HostInferencer, Source, read_rgb, write_picture

TOP = 5


class FeatureInferencer(HostInferencer):
    """Features of images by a pre-trained backbone; with a classifier its classes too.

    A config of pre-training sees images as ``mmssl knn`` does (short edge resized, centre cut out, at the
    size that the backbone was made for), one of a classifier (``configs/*/benchmarks``) by the pipeline of
    its test data, as ``mmssl test``.

    Args:
        config: a name of :func:`mmssl.apis.list_models`, a path, or a ``mmengine.Config``.
        checkpoint: weights of the model, or of its backbone alone where it has no classifier; random when
            None.
        device: 'cpu', 'cuda:0', ...; a GPU where there is one when None.
        trust: load a checkpoint that holds pickled code.
        pool: 'avg', the mean over positions, or 'cls', the class token.
        image_size: side of the crop in pixels, for configs of pre-training; the backbone's when None.

    Results:
        'features' (D,) float32; with a classifier also 'pred_label', 'pred_class', 'pred_score' and
        'pred_scores' (C,).

    Examples:
        >>> from mmssl.apis import FeatureInferencer
        >>> infer = FeatureInferencer('mae_vit-b_8xb512', 'epoch_300.pth')
        >>> features = [result['features'] for result in infer('photos/', batch_size=32)]
    """

    def __init__(
        self,
        config,
        checkpoint=None,
        device=None,
        trust: bool = False,
        pool: str = 'avg',
        image_size: int | None = None,
    ):
        from mmssl.evaluation.features import POOLS

        if pool not in POOLS:
            raise ValueError(f'pool {pool!r} is unknown; one of {", ".join(POOLS)}')
        self.pool, self.image_size = pool, image_size
        super().__init__(config, checkpoint, device, trust)

    def check_config(self, name: str) -> None:
        """ValueError for configs of detectors, segmentors and segmenters by prompts."""
        scope, kind = self.cfg.get('default_scope'), str(self.cfg.model.get('type')).removeprefix('mmssl.')
        other = {'mmdet': 'DetectionInferencer', 'mmseg': 'SegmentationInferencer'}.get(scope)
        other = 'PromptInferencer' if kind in ('InteractiveSAM', 'SAM') else other
        if other:
            raise ValueError(
                f'{name} is no backbone to take features of: its model, {kind}, is one of mmssl.apis.{other}'
            )

    def prepare(self, checkpoint: str | None, trust: bool) -> None:
        """Model, pipeline, classes."""
        from mmssl.data.transforms import LoadCenterCrop
        from mmssl.evaluation.features import image_size_of

        self.is_classifier = bool(self.test_dataset()) and self.cfg.model.get('head') is not None
        content = self.build(checkpoint, trust, whole=self.is_classifier)
        if self.is_classifier:
            self.classes = self.meta(content, getattr(self.model.head, 'num_classes', None))['classes']
        else:
            self.crop = LoadCenterCrop(scale=self.image_size or image_size_of(self.model, self.cfg))

    def predict(self, sources: Sequence[Source], files: Sequence[Path], **options) -> list[dict]:
        """See the class."""
        import torch

        from mmssl.evaluation.features import extract_features

        if self.is_classifier:
            return self.test(files)
        images = [
            torch.from_numpy(self.crop(dict(img_path=str(file)))['img'].copy()).permute(2, 0, 1)
            for file in files
        ]
        features, _ = extract_features(
            self.model, [(torch.stack(images), torch.zeros(len(images)))], self.pool, progress=False
        )
        return [{'features': row} for row in features.numpy()]

    def run(self, batch: dict) -> list[dict]:
        """Classes and features of a batch by one pass through the backbone; two where the class token is asked for and not put out."""
        from mmssl.evaluation.features import extract_features, pool_features

        kept: list = []
        hook = self.model.backbone.register_forward_hook(lambda module, args, output: kept.append(output))
        try:
            samples = self.model.test_step(batch)
        finally:
            hook.remove()
        extra, kind = (
            getattr(self.model.backbone, 'num_extra_tokens', 1),
            getattr(self.model.backbone, 'out_type', None),
        )
        if self.pool == 'cls' and kind not in (None, 'cls_token', 'raw'):
            inputs = self.stacked(batch)
            features = extract_features(
                self.model, [(inputs, inputs.new_zeros(len(inputs)))], 'cls', progress=False
            )[0]
        else:
            features = pool_features(kept[0], self.pool, extra).float().cpu()
        results = []
        for sample, row in zip(samples, features.numpy(), strict=True):
            label, scores = int(sample.pred_label.flatten()[0]), sample.pred_score.cpu().numpy()
            results.append(
                {
                    'features': row,
                    'pred_label': label,
                    'pred_class': self.class_name(label),
                    'pred_score': float(scores[label]),
                    'pred_scores': scores,
                }
            )
        return results

    @staticmethod
    def stacked(batch: dict):
        """(B, 3, H, W) of a batch of images of one size."""
        import torch

        return torch.stack(list(batch['inputs']))

    def save(self, source: Source, file: Path, result: dict, folder: Path) -> None:
        """The image with its best classes; nothing without a classifier."""
        if 'pred_scores' in result:
            best = np.argsort(-result['pred_scores'], kind='stable')[:TOP]
            names = [self.class_name(label) for label in best]
            write_picture(
                captioned(read_rgb(file), names, result['pred_scores'][best]),
                folder / 'pictures' / f'{source.name}.png',
            )


def captioned(image: np.ndarray, names: Sequence[str], scores: Sequence[float], height: int = 360):
    """An image (H, W, 3) RGB with bars of scores beneath it, as a picture."""
    from PIL import Image, ImageDraw, ImageFont

    from mmssl.visualization.colours import class_colour

    scale = height / image.shape[0]
    body = Image.fromarray(image).resize(
        (max(160, round(image.shape[1] * scale)), height), Image.Resampling.BICUBIC
    )
    line, font = 22, ImageFont.load_default(size=14)
    whole = Image.new('RGB', (body.width, height + line * len(names) + 4), 'white')
    whole.paste(body, (0, 0))
    draw = ImageDraw.Draw(whole)
    for number, (name, score) in enumerate(zip(names, scores, strict=True)):
        top = height + 4 + number * line
        draw.rectangle(
            (0, top, round(float(score) * (body.width - 1)), top + line - 5),
            fill=class_colour(0) if number == 0 else '#c8d2dc',
        )
        draw.text(
            (4, top + line / 2 - 2), f'{float(score):.2f}  {name}', fill='black', font=font, anchor='lm'
        )
    return whole
