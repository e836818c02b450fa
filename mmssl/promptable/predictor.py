"""Masks of prompts on one image: the interface of the official ``SamPredictor``, whose users change the import and nothing else."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from mmssl.promptable.embeddings import EmbeddingCache, versions
from mmssl.promptable.two_way import ImageSide

FORMATS = ('RGB', 'BGR')
# pixels that a point may lie outside of an image by rounding
SLACK = 1e-3


class ResizeLongestSide:
    """Images and places to the size that a model takes. Names as in the official class.

    Args:
        target_length: longest side in pixels.
    """

    def __init__(self, target_length: int):
        self.target_length = target_length

    def get_preprocess_shape(
        self, height: int, width: int, long_side_length: int | None = None
    ) -> tuple[int, int]:
        """(height, width) after resizing; sides are rounded, at least 1."""
        scale = (long_side_length or self.target_length) * 1.0 / max(height, width)
        return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))

    def apply_image(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8, bilinear with antialiasing as Pillow does it."""
        height, width = self.get_preprocess_shape(*image.shape[:2])
        if (height, width) == image.shape[:2]:
            return np.array(image)
        return np.array(
            Image.fromarray(np.ascontiguousarray(image)).resize((width, height), Image.Resampling.BILINEAR)
        )

    def _factors(self, original_size: Sequence[int]) -> tuple[float, float]:
        height, width = self.get_preprocess_shape(*original_size)
        return width / original_size[1], height / original_size[0]

    def apply_coords(self, coords: np.ndarray, original_size: Sequence[int]) -> np.ndarray:
        """(..., 2) x and y in pixels of an image of (height, width), to float64."""
        coords = np.array(coords, dtype=np.float64)
        for axis, factor in enumerate(self._factors(original_size)):
            coords[..., axis] *= factor
        return coords

    def apply_boxes(self, boxes: np.ndarray, original_size: Sequence[int]) -> np.ndarray:
        """(..., 4) left, top, right, bottom to (N, 4)."""
        return self.apply_coords(np.asarray(boxes).reshape(-1, 2, 2), original_size).reshape(-1, 4)

    def apply_coords_torch(self, coords: Tensor, original_size: Sequence[int]) -> Tensor:
        """As :meth:`apply_coords`, to float32."""
        coords = coords.to(torch.float32, copy=True)
        for axis, factor in enumerate(self._factors(original_size)):
            coords[..., axis] = coords[..., axis] * factor
        return coords

    def apply_boxes_torch(self, boxes: Tensor, original_size: Sequence[int]) -> Tensor:
        """As :meth:`apply_boxes`, to float32."""
        return self.apply_coords_torch(boxes.reshape(-1, 2, 2), original_size).reshape(-1, 4)


class SamPredictor:
    """Encodes an image once and answers prompts; arguments and results of the official class, final masks too.

    The official class takes points outside the image, labels alone or float images without a word, or fails
    somewhere inside. What the decoder makes of the image alone is kept between calls. Needs no gradients; the
    mode of the model is left as it is.

    Args:
        sam_model: a :class:`mmssl.SAM`, or a :class:`mmssl.InteractiveSAM`.
        cache_dir: folder for embeddings, named after the pixels, the weights and the size; None: they are not
            kept.

    Attributes:
        transform: :class:`ResizeLongestSide`.
        features: (1, C, h, w) embedding of the image.
        original_size, input_size: (height, width) of the image, as it came and as it was encoded.
        is_image_set: whether there is one.
    """

    def __init__(self, sam_model: nn.Module, cache_dir: str | Path | None = None):
        self.model = sam_model.to_sam() if hasattr(sam_model, 'to_sam') else sam_model
        missing = [
            name
            for name in ('image_encoder', 'prompt_encoder', 'mask_decoder', 'preprocess', 'postprocess_masks')
            if not hasattr(self.model, name)
        ]
        if missing:
            raise TypeError(
                f'{type(sam_model).__name__} is no SAM: it has no {", ".join(missing)}; build one with mmssl.promptable.'
                'build_sam'
            )
        self.transform = ResizeLongestSide(self.model.image_encoder.img_size)
        self.cache = EmbeddingCache(cache_dir, torch.float32) if cache_dir else None
        self._side: tuple[tuple, ImageSide] | None = None
        self.reset_image()

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    def reset_image(self) -> None:
        """Forget the image."""
        self.is_image_set = False
        self.features: Tensor | None = None
        self.original_size: tuple[int, int] | None = None
        self.input_size: tuple[int, int] | None = None
        self._side = None

    def set_image(self, image: np.ndarray, image_format: str = 'RGB') -> None:
        """Encode an image.

        Args:
            image: (H, W, 3) uint8, 0 to 255.
            image_format: order of its channels, 'RGB' or 'BGR'.

        Raises:
            TypeError: no array, or not of uint8.
            ValueError: no pixel, other axes, an unknown order.
        """
        if image_format not in FORMATS:
            raise ValueError(f"image_format={image_format!r}; give 'RGB' or 'BGR', the order of the channels")
        check_image(image)
        if image_format != self.model.image_format:
            image = image[..., ::-1]
        pixels = torch.from_numpy(self.transform.apply_image(image)).to(self.device)
        self.set_torch_image(pixels.permute(2, 0, 1).contiguous()[None], image.shape[:2])

    @torch.no_grad()
    def set_torch_image(self, transformed_image: Tensor, original_image_size: Sequence[int]) -> None:
        """Encode an image that is resized already.

        Args:
            transformed_image: (1, 3, H, W), 0 to 255, RGB, longest side that of the model.
            original_image_size: (height, width) before it was resized.

        Raises:
            ValueError: another shape, or values out of range.
        """
        side, shape = self.model.image_encoder.img_size, tuple(transformed_image.shape)
        if len(shape) != 4 or shape[:2] != (1, 3) or min(shape) < 1 or max(shape[2:]) != side:
            raise ValueError(
                f'an image of shape {shape}; give (1, 3, H, W) with {side} as the longer of H and W, as '
                'predictor.transform.apply_image resizes it, or call set_image'
            )
        if len(original_image_size) != 2 or min(original_image_size) < 1:
            raise ValueError(
                f'original_image_size={tuple(original_image_size)}; give (height, width) in pixels before resizing'
            )
        if transformed_image.dtype != torch.uint8:
            low, high = (float(value) for value in transformed_image.aminmax())
            if not 0 <= low <= high <= 255 or (transformed_image.is_floating_point() and 0 < high <= 1):
                raise ValueError(
                    f'an image with values from {low:g} to {high:g}; give pixels from 0 to 255'
                    + (', image * 255' if 0 <= low <= high <= 1 else ', not normalised: the model does that')
                )
        self.reset_image()
        self.original_size, self.input_size = _edges(original_image_size), _edges(shape[2:])
        encoder = self.model.image_encoder
        weight = next(encoder.parameters(), self.model.pixel_mean)
        pixels = self.model.preprocess(transformed_image.to(self.device)).to(weight.dtype)
        with evaluating(encoder):
            self.features = encoder(pixels) if self.cache is None else self.cache(encoder, pixels)
        self.is_image_set = True

    def set_embedding(
        self, features: Tensor, input_size: Sequence[int], original_size: Sequence[int]
    ) -> None:
        """Take an image that is encoded already.

        Args:
            features: (1, C, h, w), of the padded square.
            input_size, original_size: (height, width) of the image as it was encoded, without padding, and as
                it came.

        Raises:
            ValueError: an embedding of another shape.
        """
        expected = (1, self.model.prompt_encoder.embed_dim, *self.model.prompt_encoder.image_embedding_size)
        if tuple(features.shape) != expected:
            raise ValueError(f'an embedding of shape {tuple(features.shape)}; give {expected}')
        self.reset_image()
        self.features, self.is_image_set = features, True
        self.input_size, self.original_size = _edges(input_size), _edges(original_size)

    def get_image_embedding(self) -> Tensor:
        """(1, C, h, w) embedding of the image.

        Raises:
            RuntimeError: there is none.
        """
        self._need_image()
        return self.features

    def sizes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """(height, width) of the image as it is encoded, without padding, and as it came.

        Raises:
            RuntimeError: there is none.
        """
        self._need_image()
        assert self.input_size is not None and self.original_size is not None
        return self.input_size, self.original_size

    def predict(
        self,
        point_coords: np.ndarray | None = None,
        point_labels: np.ndarray | None = None,
        box: np.ndarray | None = None,
        mask_input: np.ndarray | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Masks of one prompt, in pixels of the image as it came.

        Args:
            point_coords: (N, 2), x and y.
            point_labels: (N,), 1 foreground, 0 background; -1 for a point that does not count.
            box: (4,), left, top, right, bottom.
            mask_input: (1, 4h, 4w), low-resolution logits of an earlier prediction.
            multimask_output: the masks of an ambiguous prompt; else the one mask.
            return_logits: masks before they are cut at the threshold.

        Returns:
            masks (M, H, W), bool or float32; predicted IoU (M,); low-resolution logits (M, 4h, 4w).

        Raises:
            RuntimeError: no image.
            ValueError: points without labels or labels without points; places outside the image; other
                shapes.
        """
        _, original_size = self.sizes()
        coords = labels = boxes = masks = None
        if (point_coords is None) != (point_labels is None):
            given, needed = (
                ('point_labels', 'point_coords') if point_coords is None else ('point_coords', 'point_labels')
            )
            raise ValueError(
                f'{given} without {needed}: every point needs x, y and a label, 1 foreground or 0 background'
            )
        if point_coords is not None:
            point_coords, point_labels = np.asarray(point_coords), np.asarray(point_labels)
            if (
                point_coords.ndim != 2
                or point_coords.shape[1] != 2
                or point_labels.shape != point_coords.shape[:1]
            ):
                raise ValueError(
                    f'point_coords of shape {point_coords.shape} with point_labels of shape {point_labels.shape}; '
                    'give (N, 2) and (N,), or several prompts at once to predict_torch'
                )
            check_labels(point_labels)
            check_places(point_coords[point_labels != -1], original_size, 'point')
            coords = torch.as_tensor(
                self.transform.apply_coords(point_coords, original_size), dtype=torch.float32
            )[None]
            labels = torch.as_tensor(point_labels, dtype=torch.int32)[None]
        if box is not None:
            box = np.asarray(box)
            if box.shape not in ((4,), (1, 4)):
                raise ValueError(
                    f'box of shape {box.shape}; give (4,): left, top, right, bottom. Several boxes go to predict_torch'
                )
            check_boxes(box.reshape(1, 4), original_size)
            boxes = torch.as_tensor(self.transform.apply_boxes(box, original_size), dtype=torch.float32)
        if mask_input is not None:
            masks = torch.as_tensor(np.asarray(mask_input), dtype=torch.float32)
            size = tuple(self.model.prompt_encoder.mask_input_size)
            if masks.shape != (1, *size):
                raise ValueError(
                    f'mask_input of shape {tuple(masks.shape)}; give (1, {size[0]}, {size[1]}), low-resolution logits as the '
                    'third result of predict: mask_input=logits[best][None]'
                )
            masks = masks[None]
        moved = (None if value is None else value.to(self.device) for value in (coords, labels, boxes, masks))
        results = self._predict(*moved, multimask_output, return_logits)
        return tuple(value[0].cpu().numpy() for value in results)

    def predict_torch(
        self,
        point_coords: Tensor | None,
        point_labels: Tensor | None,
        boxes: Tensor | None = None,
        mask_input: Tensor | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Masks of several prompts at once, in pixels of the image as it is encoded (``predictor.transform`` brings them there).

        Args:
            point_coords: (P, N, 2).
            point_labels: (P, N).
            boxes: (P, 4).
            mask_input: (P, 1, 4h, 4w).
            multimask_output, return_logits: as in :meth:`predict`.

        Returns:
            masks (P, M, H, W) at the size of the image as it came, predicted IoU (P, M), low-resolution
            logits (P, M, 4h, 4w).

        Raises:
            RuntimeError, ValueError: as :meth:`predict`.
        """
        input_size, _ = self.sizes()
        if (point_coords is None) != (point_labels is None):
            given, needed = (
                ('point_labels', 'point_coords') if point_coords is None else ('point_coords', 'point_labels')
            )
            raise ValueError(
                f'{given} without {needed}: every point needs x, y and a label, 1 foreground or 0 background'
            )
        hint = '; predict_torch takes pixels of the resized image: predictor.transform.apply_coords_torch(coords, original_size)'
        if (
            point_coords is not None
            and point_labels is not None
            and point_coords.shape[:-1] == point_labels.shape
        ):
            check_labels(point_labels.cpu().numpy())
            check_places(
                point_coords[point_labels != -1].reshape(-1, 2).cpu().numpy(), input_size, 'point', hint
            )
        if boxes is not None and boxes.shape[-1] == 4:
            check_boxes(boxes.reshape(-1, 4).cpu().numpy(), input_size, hint)
        return self._predict(point_coords, point_labels, boxes, mask_input, multimask_output, return_logits)

    @torch.no_grad()
    def _predict(
        self, coords, labels, boxes, masks, multimask_output: bool, return_logits: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        points = None if coords is None else (coords, labels)
        sparse, dense = self.model.prompt_encoder(points=points, boxes=boxes, masks=masks)
        logits, ious = self.model.mask_decoder(
            self.features,
            self.model.prompt_encoder.get_dense_pe(),
            sparse,
            dense,
            multimask_output,
            image_side=self.image_side() if masks is None else None,
        )
        logits, ious = logits.float(), ious.float()
        full = self.model.postprocess_masks(logits, self.input_size, self.original_size)
        return full if return_logits else full > self.model.mask_threshold, ious, logits

    @torch.no_grad()
    def image_side(self) -> ImageSide:
        """What the decoder makes of the image alone, made once for all prompts without masks."""
        features = self.get_image_embedding()
        prompts, decoder = self.model.prompt_encoder, self.model.mask_decoder
        kind = features.device.type
        state = (
            features.data_ptr(),
            features.is_inference() or features._version,
            versions(prompts, decoder),
            torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind),
        )
        if self._side is None or self._side[0] != state:
            self._side = state, decoder.prepare(features, prompts.get_dense_pe(), prompts.no_mask(1))
        return self._side[1]

    def _need_image(self) -> None:
        if not self.is_image_set:
            raise RuntimeError('there is no image yet: call set_image(image) before predicting')


def _edges(size: Sequence[int]) -> tuple[int, int]:
    height, width = size
    return int(height), int(width)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """In evaluation inside, each part as it was afterwards."""
    training = [part for part in module.modules() if part.training]
    try:
        for part in training:
            part.training = False
        yield
    finally:
        for part in training:
            part.training = True


def check_image(image: np.ndarray) -> None:
    """Raise where an image is not (H, W, 3) uint8 with pixels."""
    if not isinstance(image, np.ndarray):
        raise TypeError(
            f'an image of type {type(image).__name__}; give an array (H, W, 3) of uint8: np.asarray(image) of a Pillow image, '
            'or a resized tensor to set_torch_image'
        )
    if image.size == 0:
        raise ValueError(f'an empty image of shape {image.shape}; was the file read?')
    if image.ndim != 3 or image.shape[2] != 3:
        cure = (
            'np.stack([image] * 3, axis=-1)'
            if image.ndim == 2
            else 'np.repeat(image, 3, axis=-1)'
            if image.shape[-1] == 1
            else 'image[..., :3]'
            if image.shape[-1] == 4
            else 'image.transpose(1, 2, 0)'
            if image.ndim == 3 and image.shape[0] == 3
            else 'one image at a time'
        )
        raise ValueError(f'an image of shape {image.shape}; give (H, W, 3): {cure}')
    if image.dtype != np.uint8:
        if image.dtype.kind not in 'fiub':
            raise TypeError(f'an image of {image.dtype}; give uint8, 0 to 255')
        low, high = float(image.min()), float(image.max())
        cure = (
            '(image * 255).round().astype(np.uint8)'
            if 0 <= low <= high <= 1
            else 'image.round().astype(np.uint8)'
            if 0 <= low <= high <= 255
            else 'bring its values into 0 to 255 first'
        )
        raise TypeError(
            f'an image of {image.dtype} with values from {low:g} to {high:g}; give uint8, 0 to 255: {cure}'
        )


def check_labels(labels: np.ndarray) -> None:
    """Raise where a label is none of 1, 0, -1 and the corners of a box, 2 and 3."""
    wrong = labels[~np.isin(labels, (-1, 0, 1, 2, 3))]
    if wrong.size:
        raise ValueError(
            f'a point has the label {wrong.flat[0]}; give 1 for foreground, 0 for background, -1 for no point'
        )


def check_places(places: np.ndarray, size: Sequence[int], what: str, hint: str = '') -> None:
    """Raise where (N, 2) x and y are not in an image of (height, width)."""
    height, width = size
    inside = (places >= -SLACK) & (places <= np.array([width + SLACK, height + SLACK]))
    wrong = np.flatnonzero(~inside.all(axis=-1)) if len(places) else places
    if len(wrong):
        x, y = places[wrong[0]]
        raise ValueError(
            f'{what} ({x:g}, {y:g}) lies outside the image, which is {width} wide and {height} high; give (x, y) in pixels, '
            f'x first{hint}'
        )


def check_boxes(boxes: np.ndarray, size: Sequence[int], hint: str = '') -> None:
    """Raise where (N, 4) boxes are not in an image of (height, width), or have no extent."""
    check_places(boxes.reshape(-1, 2), size, 'corner of a box', hint)
    wrong = np.flatnonzero((boxes[:, 2:] < boxes[:, :2]).any(axis=1))
    if len(wrong):
        raise ValueError(
            f'box {boxes[wrong[0]].tolist()} ends before it begins; give left, top, right, bottom (not width and height)'
        )
