"""A segmentor that keeps classes, not scores."""

import torch
from mmengine.structures import PixelData
from mmseg.models.segmentors import EncoderDecoder as HostEncoderDecoder
from mmseg.structures import SegDataSample
from torch import Tensor

from mmssl.layers.memory_format import memory_format_of
from mmssl.registry import MODELS


@MODELS.register_module()
class EncoderDecoder(HostEncoderDecoder):
    """mmseg's keeps the scores of all classes at full size with every result (210 MB for one ADE20K image), and pads a copy a window.

    Images (B, 3, H, W) go in; results are those of mmseg's. With ``mode='slide'`` only the rows under the
    current windows have scores: memory grows with the width of an image, not with its height. A convolutional
    backbone runs with the channels last.

    Args:
        keep_logits: keep ``seg_logits`` in the results, as test-time augmentation needs.
        others: of mmseg's EncoderDecoder.
    """

    def __init__(self, *args, keep_logits: bool = False, **kwargs):
        super().__init__(*args, **kwargs)
        self.keep_logits = keep_logits
        self.memory_format = memory_format_of(self.backbone)

    def extract_feat(self, inputs: Tensor) -> list[Tensor]:
        """Maps of the backbone and the neck for images (B, 3, H, W)."""
        return super().extract_feat(inputs.contiguous(memory_format=self.memory_format))

    def encode_decode(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """Scores (B, C, H, W) of images (B, 3, H, W); ValueError where they are NaN or infinite, of which argmax would make classes."""
        scores = super().encode_decode(inputs, batch_img_metas)
        least, largest = torch.aminmax(scores.detach()) if scores.numel() else scores.new_zeros(2)
        if not bool(torch.isfinite(least) & torch.isfinite(largest)):
            image = next((meta['img_path'] for meta in batch_img_metas if meta.get('img_path')), 'an image')
            raise ValueError(
                f'{image}: the scores are NaN or infinite: the checkpoint or the image holds such numbers'
            )
        return scores

    def predict(self, inputs: Tensor, data_samples: list[SegDataSample] | None = None) -> list[SegDataSample]:
        """Classes of every pixel.

        Args:
            inputs: (B, 3, H, W), normalised.
            data_samples: of the images; results are written into them.

        Returns:
            samples with ``pred_sem_seg``, (1, H, W) uint8 (int64 beyond 256 classes) at the original size.
        """
        if (
            not self.keep_logits
            and self.test_cfg.get('mode', 'whole') == 'slide'
            and self._as_shot(inputs, data_samples)
        ):
            samples = data_samples or [SegDataSample() for _ in inputs]
            for sample, image in zip(samples, inputs, strict=True):
                sample.set_data(
                    {
                        'pred_sem_seg': PixelData(
                            data=self.slide_classes(image[None], dict(sample.metainfo))[None]
                        )
                    }
                )
            return samples
        samples = super().predict(inputs, data_samples)
        if not self.keep_logits:
            for sample in samples:
                sample.pop('seg_logits', None)
                sample.pred_sem_seg = PixelData(data=self._narrow(sample.pred_sem_seg.data))
        return samples

    @staticmethod
    def _as_shot(inputs: Tensor, data_samples: list[SegDataSample] | None) -> bool:
        """Whether the results need no cropping, flipping or resizing."""
        for sample in data_samples or []:
            meta = sample.metainfo
            padding = meta.get('img_padding_size', meta.get('padding_size', [0] * 4))
            if (
                any(padding)
                or meta.get('flip')
                or tuple(meta.get('ori_shape', inputs.shape[-2:])[:2]) != tuple(inputs.shape[-2:])
            ):
                return False
        return True

    def _narrow(self, classes: Tensor) -> Tensor:
        return classes.to(torch.uint8) if max(self.num_classes, 2) <= 256 else classes.long()

    def slide_classes(self, image: Tensor, meta: dict) -> Tensor:
        """Classes by overlapping windows, whose scores are averaged.

        Args:
            image: (1, 3, H, W).
            meta: of the image, for the heads.

        Returns:
            (H, W), see :meth:`predict`.
        """
        (stride_y, stride_x), (crop_y, crop_x) = self.test_cfg['stride'], self.test_cfg['crop_size']
        height, width = image.shape[-2:]
        crop_y, crop_x = min(crop_y, height), min(crop_x, width)
        tops, lefts = _starts(height, crop_y, stride_y), _starts(width, crop_x, stride_x)
        classes = self._narrow(torch.zeros(height, width, dtype=torch.long, device=image.device))
        scores = image.new_zeros(self.out_channels, crop_y, width)
        windows = image.new_zeros(crop_y, width)
        for number, top in enumerate(tops):
            for left in lefts:
                window = image[..., top : top + crop_y, left : left + crop_x]
                scores[..., left : left + crop_x] += self.encode_decode(
                    window, [{**meta, 'img_shape': window.shape[2:]}]
                )[0]
                windows[:, left : left + crop_x] += 1
            done = (tops[number + 1] if number + 1 < len(tops) else height) - top
            mean = scores[:, :done] / windows[:done]
            if self.out_channels > 1:
                classes[top : top + done] = self._narrow(mean.argmax(0))
            else:
                classes[top : top + done] = self._narrow(mean[0].sigmoid() > self.decode_head.threshold)
            for rows in (scores, windows):
                kept = rows[..., done:, :].clone()
                rows.zero_()
                rows[..., : kept.shape[-2], :] = kept
        return classes


def _starts(length: int, crop: int, stride: int) -> list[int]:
    """Where windows begin; the last one ends with the image."""
    count = max(length - crop + stride - 1, 0) // stride + 1
    return [min(index * stride, length - crop) for index in range(count)]
