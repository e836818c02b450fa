"""Segmentor that returns classes instead of scores, in little memory."""

from itertools import pairwise

import torch
from mmengine.structures import PixelData
from mmseg.models.segmentors import EncoderDecoder as MMSegEncoderDecoder
from mmseg.structures import SegDataSample
from torch import Tensor

from mmssl.layers.memory_format import memory_format_of
from mmssl.registry import MODELS


@MODELS.register_module()
class EncoderDecoder(MMSegEncoderDecoder):
    """Encoder and decoder head of mmseg whose results are classes, without scores.

    With ``mode='slide'``, scores are held only for the rows below the current windows: memory grows with the
    width of an image, not with its height. A convolutional backbone runs in channels-last format.

    Args:
        *args: Passed on to mmseg's EncoderDecoder.
        keep_logits: Keep ``seg_logits`` in the results, as test-time augmentation needs.
        **kwargs: Passed on to mmseg's EncoderDecoder.

    Attributes:
        host_syncs: How often the package, besides mmseg, may wait for the GPU in a training step.

    Raises:
        ValueError: With ``mode='slide'``, a stride exceeds the window, so that pixels between the windows
            would be left without a class.
    """

    # mmseg's keeps the scores of all classes at full size with each result, 210 MB for an image of ADE20K,
    # and pads a copy of them for each window

    host_syncs = 0

    def __init__(self, *args, keep_logits: bool = False, **kwargs):
        super().__init__(*args, **kwargs)
        self.keep_logits = keep_logits
        self.check_windows()
        self.memory_format = memory_format_of(self.backbone)

    def check_windows(self) -> None:
        """Check that the windows of ``mode='slide'`` cover the image."""
        if not self.test_cfg or self.test_cfg.get('mode', 'whole') != 'slide':
            return
        missing = [name for name in ('stride', 'crop_size') if not self.test_cfg.get(name)]
        if missing:
            raise ValueError(
                f"test_cfg: mode='slide' needs {' and '.join(missing)}, (height, width) in pixels"
            )
        stride, crop_size = tuple(self.test_cfg['stride']), tuple(self.test_cfg['crop_size'])
        if not all(0 < step <= size for step, size in zip(stride, crop_size, strict=True)):
            raise ValueError(
                f'test_cfg: stride={stride} of the windows has to be above 0 and at most '
                f'crop_size={crop_size}, or pixels between them would get no class'
            )

    def extract_feat(self, inputs: Tensor) -> list[Tensor]:
        """Feature maps of the backbone and the neck for images (B, 3, H, W)."""
        return super().extract_feat(inputs.contiguous(memory_format=self.memory_format))

    def encode_decode(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """Scores (B, C, H, W) of images (B, 3, H, W).

        Raises:
            ValueError: A score is NaN or infinite, which argmax would turn into a class.
        """
        scores = super().encode_decode(inputs, batch_img_metas)
        if scores.numel():
            smallest, largest = torch.aminmax(scores.detach())
            if not bool(torch.isfinite(smallest) & torch.isfinite(largest)):
                image = next(
                    (meta['img_path'] for meta in batch_img_metas if meta.get('img_path')), 'an image'
                )
                raise ValueError(
                    f'{image}: the scores are NaN or infinite: the checkpoint or the image contains such '
                    'values'
                )
        return scores

    def predict(self, inputs: Tensor, data_samples: list[SegDataSample] | None = None) -> list[SegDataSample]:
        """Classify every pixel.

        Args:
            inputs: (B, 3, H, W), normalised.
            data_samples: Samples of the images, into which the results are written; new ones if None.

        Returns:
            Samples with ``pred_sem_seg``, (1, H, W) uint8 (int64 for more than 256 classes) at the original
            size.
        """
        slide = self.test_cfg.get('mode', 'whole') == 'slide'
        if slide and not self.keep_logits and self._unchanged(inputs, data_samples):
            samples = data_samples or [SegDataSample() for _ in inputs]
            for sample, image in zip(samples, inputs, strict=True):
                classes = self.slide_classes(image[None], dict(sample.metainfo))
                sample.set_data({'pred_sem_seg': PixelData(data=classes[None])})
            return samples
        samples = super().predict(inputs, data_samples)
        if not self.keep_logits:
            for sample in samples:
                del sample.seg_logits  # pop() would keep the tensor in the property's attribute
                sample.pred_sem_seg = PixelData(data=self._narrow(sample.pred_sem_seg.data))
        return samples

    @staticmethod
    def _unchanged(inputs: Tensor, data_samples: list[SegDataSample] | None) -> bool:
        """True if the images were neither padded, flipped nor resized, so that classes need no undoing."""
        for sample in data_samples or []:
            meta = sample.metainfo
            padding = meta.get('img_padding_size', meta.get('padding_size', [0] * 4))
            original_size = tuple(meta.get('ori_shape', inputs.shape[-2:])[:2])
            if any(padding) or meta.get('flip') or original_size != tuple(inputs.shape[-2:]):
                return False
        return True

    def _narrow(self, classes: Tensor) -> Tensor:
        """Classes in the smallest sufficient data type."""
        return classes.to(torch.uint8) if max(self.num_classes, 2) <= 256 else classes.long()

    def _classify(self, scores: Tensor) -> Tensor:
        """Scores (C, H, W) to classes (H, W)."""
        if self.out_channels > 1:
            return self._narrow(scores.argmax(0))
        return self._narrow(scores[0].sigmoid() > self.decode_head.threshold)

    def slide_classes(self, image: Tensor, meta: dict) -> Tensor:
        """Classify an image by overlapping windows whose scores are averaged.

        Args:
            image: (1, 3, H, W).
            meta: Metadata of the image, for the decode head.

        Returns:
            (H, W) classes, see :meth:`predict`.
        """
        self.check_windows()  # test_cfg may have changed
        (stride_y, stride_x), (crop_y, crop_x) = self.test_cfg['stride'], self.test_cfg['crop_size']
        height, width = image.shape[-2:]
        crop_y, crop_x = min(crop_y, height), min(crop_x, width)
        tops = _window_starts(height, crop_y, stride_y)
        classes = self._narrow(torch.zeros(height, width, dtype=torch.long, device=image.device))
        # sums of scores and numbers of windows for the rows of the current windows
        scores = image.new_zeros(self.out_channels, crop_y, width)
        counts = image.new_zeros(crop_y, width)
        for top, next_top in pairwise([*tops, height]):
            for left in _window_starts(width, crop_x, stride_x):
                columns = slice(left, left + crop_x)
                window = image[..., top : top + crop_y, columns]
                window_meta = {**meta, 'img_shape': window.shape[2:]}
                scores[..., columns] += self.encode_decode(window, [window_meta])[0]
                counts[:, columns] += 1
            complete = next_top - top  # rows that no later window covers
            classes[top:next_top] = self._classify(scores[:, :complete] / counts[:complete])
            _shift_up(scores, complete)
            _shift_up(counts, complete)
        return classes


def _shift_up(values: Tensor, rows: int) -> None:
    """Move (..., H, W) up by a number of rows, in place, and fill with zeros."""
    remaining = values[..., rows:, :].clone()
    values.zero_()
    values[..., : remaining.shape[-2], :] = remaining


def _window_starts(length: int, crop: int, stride: int) -> list[int]:
    """Start of each window along an axis; the last window ends with the image."""
    count = max(length - crop + stride - 1, 0) // stride + 1
    return [min(index * stride, length - crop) for index in range(count)]
