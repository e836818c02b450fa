"""The interface of the official ``SamPredictor``: an image is encoded once, and prompts become masks."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mmssl.layers.input_channels import input_channels
from mmssl.layers.modes import evaluating
from mmssl.promptable.checks import (
    check_boxes,
    check_image,
    check_labels,
    check_points,
    check_points_and_labels,
    check_resized_image,
    check_resized_points,
)
from mmssl.promptable.embeddings import EmbeddingCache
from mmssl.promptable.resize import ResizeLongestSide

FORMATS = ('RGB', 'BGR')
PARTS = ('image_encoder', 'prompt_encoder', 'mask_decoder', 'preprocess', 'postprocess_masks')
RESIZED_HINT = (
    '; predict_torch takes pixels of the resized image: '
    'predictor.transform.apply_coords_torch(coords, original_size)'
)


class SamPredictor:
    """Encodes an image once and predicts masks for prompts.

    Arguments and results are those of the official class. Wrong images and prompts raise an error. Needs no
    gradients; the mode of the model is not changed.

    Args:
        sam_model: A :class:`mmssl.SAM`, a :class:`mmssl.InteractiveSAM`, or the official ``Sam``.
        cache_dir: Folder for embeddings, named after the pixels, the weights and the size; None keeps none.

    Attributes:
        transform: :class:`mmssl.promptable.resize.ResizeLongestSide`.
        features: (1, C, h, w) embedding of the image.
        original_size: (height, width) of the original image.
        input_size: (height, width) of the resized image.
        is_image_set: Whether there is an image.
        channels: Channels of the images that the model reads; 3 unless it was built for others.
    """

    def __init__(self, sam_model: nn.Module, cache_dir: str | Path | None = None):
        self.model = sam_model.to_sam() if hasattr(sam_model, 'to_sam') else sam_model
        missing = [name for name in PARTS if not hasattr(self.model, name)]
        if missing:
            raise TypeError(
                f'{type(sam_model).__name__} is no SAM: it has no {", ".join(missing)}; build one with '
                'mmssl.promptable.build_sam'
            )
        self.transform = ResizeLongestSide(self.model.image_encoder.img_size)
        self.channels = input_channels(self.model.image_encoder)
        self.cache = EmbeddingCache(cache_dir, torch.float32) if cache_dir else None
        self.reset_image()

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self.model.device

    @property
    def orig_h(self) -> int | None:
        """Height of the original image; None without an image."""
        return None if self.original_size is None else self.original_size[0]

    @property
    def orig_w(self) -> int | None:
        """Width of the original image; None without an image."""
        return None if self.original_size is None else self.original_size[1]

    @property
    def input_h(self) -> int | None:
        """Height of the resized image; None without an image."""
        return None if self.input_size is None else self.input_size[0]

    @property
    def input_w(self) -> int | None:
        """Width of the resized image; None without an image."""
        return None if self.input_size is None else self.input_size[1]

    def reset_image(self) -> None:
        """Forget the image."""
        self.is_image_set = False
        self.features: Tensor | None = None
        self.original_size: tuple[int, int] | None = None
        self.input_size: tuple[int, int] | None = None

    def set_image(self, image: np.ndarray, image_format: str = 'RGB') -> None:
        """Encode an image.

        Args:
            image: (H, W, 3) uint8, 0 to 255; of as many channels as the model reads.
            image_format: Order of three channels, 'RGB' or 'BGR'.

        Raises:
            TypeError: Not an array, or not of uint8.
            ValueError: No pixels, other axes, or an unknown order of channels.
        """
        if image_format not in FORMATS:
            raise ValueError(f"image_format={image_format!r}; give 'RGB' or 'BGR', the order of the channels")
        check_image(image, self.channels)
        if self.channels == 3 and image_format != self.model.image_format:
            image = image[..., ::-1]
        pixels = torch.from_numpy(self.transform.apply_image(image)).to(self.device)
        self.set_torch_image(pixels.permute(2, 0, 1).contiguous()[None], image.shape[:2])

    @torch.no_grad()
    def set_torch_image(self, transformed_image: Tensor, original_image_size: Sequence[int]) -> None:
        """Encode an image that is resized already.

        Args:
            transformed_image: (1, 3, H, W), 0 to 255, RGB, with the longest side of the model.
            original_image_size: (height, width) before resizing.

        Raises:
            ValueError: Another shape, or values out of range.
        """
        encoder = self.model.image_encoder
        check_resized_image(transformed_image, original_image_size, encoder.img_size, self.channels)
        self.reset_image()
        self.original_size = _int_pair(original_image_size)
        self.input_size = _int_pair(transformed_image.shape[2:])
        weight = next(encoder.parameters(), self.model.pixel_mean)
        pixels = self.model.preprocess(transformed_image.to(self.device)).to(weight.dtype)
        with evaluating(encoder):
            self.features = encoder(pixels) if self.cache is None else self.cache(encoder, pixels)
        self.is_image_set = True

    def set_embedding(
        self, features: Tensor, input_size: Sequence[int], original_size: Sequence[int]
    ) -> None:
        """Use the embedding of an image that is encoded already.

        Args:
            features: (1, C, h, w), embedding of the padded square.
            input_size: (height, width) of the resized image, without padding.
            original_size: (height, width) of the original image.

        Raises:
            ValueError: An embedding of another shape.
        """
        expected = (1, self.model.prompt_encoder.embed_dim, *self.model.prompt_encoder.image_embedding_size)
        if tuple(features.shape) != expected:
            raise ValueError(f'an embedding of shape {tuple(features.shape)}; give {expected}')
        self.reset_image()
        self.features = features
        self.input_size = _int_pair(input_size)
        self.original_size = _int_pair(original_size)
        self.is_image_set = True

    def get_image_embedding(self) -> Tensor:
        """(1, C, h, w) embedding of the image.

        Raises:
            RuntimeError: No image was set.
        """
        self._require_image()
        return self.features

    def sizes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """(height, width) of the resized image, without padding, and of the original image.

        Raises:
            RuntimeError: No image was set.
        """
        self._require_image()
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
        """Predict the masks of one prompt, in pixels of the original image.

        Args:
            point_coords: (N, 2), x and y.
            point_labels: (N,), 1 foreground, 0 background; -1 for a point to ignore.
            box: (4,), left, top, right, bottom.
            mask_input: (1, 4h, 4w), low-resolution logits of an earlier prediction.
            multimask_output: Return the masks for ambiguous prompts instead of the single mask.
            return_logits: Return logits instead of thresholded masks.

        Returns:
            Masks (M, H, W), bool or float32; predicted IoU (M,); low-resolution logits (M, 4h, 4w).

        Raises:
            RuntimeError: No image was set.
            ValueError: Points without labels or labels without points, points outside the image, or other
                shapes.
        """
        self._require_image()
        coords, labels = self._point_tensors(point_coords, point_labels)
        tensors = (coords, labels, self._box_tensor(box), self._mask_tensor(mask_input))
        on_device = [None if tensor is None else tensor.to(self.device) for tensor in tensors]
        results = self._predict(*on_device, multimask_output, return_logits)
        return tuple(value[0].cpu().numpy() for value in results)

    def _point_tensors(self, coords, labels) -> tuple[Tensor | None, Tensor | None]:
        """Points (N, 2) of the original image as (1, N, 2) of the resized one, and labels (1, N)."""
        check_points_and_labels(coords, labels)
        if coords is None:
            return None, None
        coords, labels = np.asarray(coords), np.asarray(labels)
        if coords.ndim != 2 or coords.shape[1] != 2 or labels.shape != coords.shape[:1]:
            raise ValueError(
                f'point_coords of shape {coords.shape} with point_labels of shape {labels.shape}; give '
                '(N, 2) and (N,), or several prompts at once to predict_torch'
            )
        check_labels(labels)
        _, original_size = self.sizes()
        check_points(coords[labels != -1], original_size)
        resized = torch.as_tensor(self.transform.apply_coords(coords, original_size), dtype=torch.float32)
        return resized[None], torch.as_tensor(labels, dtype=torch.int32)[None]

    def _box_tensor(self, box) -> Tensor | None:
        """Box (4,) of the original image as (1, 4) of the resized one."""
        if box is None:
            return None
        box = np.asarray(box)
        if box.shape not in ((4,), (1, 4)):
            raise ValueError(
                f'box of shape {box.shape}; give (4,): left, top, right, bottom. Several boxes go to '
                'predict_torch'
            )
        _, original_size = self.sizes()
        check_boxes(box.reshape(1, 4), original_size)
        return torch.as_tensor(self.transform.apply_boxes(box, original_size), dtype=torch.float32)

    def _mask_tensor(self, mask_input) -> Tensor | None:
        """Logits (1, 4h, 4w) as (1, 1, 4h, 4w)."""
        if mask_input is None:
            return None
        masks = torch.as_tensor(np.asarray(mask_input), dtype=torch.float32)
        height, width = self.model.prompt_encoder.mask_input_size
        if masks.shape != (1, height, width):
            raise ValueError(
                f'mask_input of shape {tuple(masks.shape)}; give (1, {height}, {width}), low-resolution '
                'logits as the third result of predict: mask_input=logits[best][None]'
            )
        return masks[None]

    def predict_torch(
        self,
        point_coords: Tensor | None,
        point_labels: Tensor | None,
        boxes: Tensor | None = None,
        mask_input: Tensor | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Predict the masks of several prompts, in pixels of the resized image; see ``predictor.transform``.

        Args:
            point_coords: (P, N, 2).
            point_labels: (P, N).
            boxes: (P, 4).
            mask_input: (P, 1, 4h, 4w).
            multimask_output: As in :meth:`predict`.
            return_logits: As in :meth:`predict`.

        Returns:
            Masks (P, M, H, W) at the size of the original image, predicted IoU (P, M), low-resolution logits
            (P, M, 4h, 4w).

        Raises:
            RuntimeError: As in :meth:`predict`.
            ValueError: As in :meth:`predict`.
        """
        input_size, _ = self.sizes()
        check_points_and_labels(point_coords, point_labels)
        if point_coords is not None and point_labels is not None:
            check_resized_points(point_coords, point_labels, input_size, RESIZED_HINT)
        if boxes is not None and boxes.shape[-1] == 4:
            check_boxes(boxes.reshape(-1, 4).cpu().numpy(), input_size, RESIZED_HINT)
        return self._predict(point_coords, point_labels, boxes, mask_input, multimask_output, return_logits)

    @torch.no_grad()
    def _predict(
        self, coords, labels, boxes, masks, multimask_output: bool, return_logits: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        points = None if coords is None else (coords, labels)
        sparse, dense = self.model.prompt_encoder(points=points, boxes=boxes, masks=masks)
        decode = self.model.mask_decoder if len(sparse) else self._decode_nothing
        logits, ious = decode(
            image_embeddings=self.features,
            image_pe=self.model.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense[:1] if masks is None else dense,  # one for all without masks
            multimask_output=multimask_output,
        )
        logits, ious = logits.float(), ious.float()
        full = self.model.postprocess_masks(logits, self.input_size, self.original_size)
        return full if return_logits else full > self.model.mask_threshold, ious, logits

    def _decode_nothing(self, multimask_output: bool, **arguments) -> tuple[Tensor, Tensor]:
        """Logits (0, M, 4h, 4w) and predicted IoU (0, M), for decoders that cannot decode zero prompts."""
        count = getattr(self.model.mask_decoder, 'num_multimask_outputs', 3) if multimask_output else 1
        height, width = self.model.prompt_encoder.mask_input_size
        features = arguments['image_embeddings']
        return features.new_zeros(0, count, height, width), features.new_zeros(0, count)

    def _require_image(self) -> None:
        if not self.is_image_set:
            raise RuntimeError('there is no image yet: call set_image(image) before predicting')


def _int_pair(size: Sequence[int]) -> tuple[int, int]:
    height, width = size
    return int(height), int(width)
