"""Three more pretext tasks: jigsaw puzzles, colourisation and inpainting.

Jigsaw (Noroozi, Favaro, ECCV 2016, arXiv:1603.09246) is a classifier like those of
:mod:`mmssl.selfsup.pretext`. Colourisation (Zhang, Isola, Efros, ECCV 2016, arXiv:1603.08511) and inpainting
(context encoders, Pathak et al., CVPR 2016, arXiv:1604.07379) predict pixels that the backbone does not get.
"""

from itertools import permutations

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmssl.layers.input_channels import input_channels
from mmssl.layers.unused_arguments import refuse_unused
from mmssl.registry import MODELS, build
from mmssl.selfsup.base import SelfSupervisor
from mmssl.selfsup.pretext import HEAD, PretextTask
from mmssl.selfsup.small import RESNET, Small

# red, green and blue in luma, ITU-R BT.601
LUMA = (0.299, 0.587, 0.114)


def permutation_set(count: int, length: int = 9, candidates: int = 1000, seed: int = 0) -> Tensor:
    """Choose permutations that differ in many positions (algorithm 1 of the paper).

    Each one maximises the smallest Hamming distance to those before it, among random candidates: all 9!
    would take minutes.

    Args:
        count: Number of permutations.
        length: Number of entries of a permutation.
        candidates: Permutations to choose each one from; with at least ``length!`` of them, from all.
        seed: Seed of the candidates.

    Returns:
        (count, length), int64, no two rows equal.

    Raises:
        ValueError: There are fewer permutations than ``count``.
    """
    generator = torch.Generator().manual_seed(seed)
    if length < 7:
        pool = torch.tensor(list(permutations(range(length))))
    else:
        pool = (
            torch.rand(max(candidates, 4 * count), length, generator=generator).argsort(dim=1).unique(dim=0)
        )
    if not 1 <= count <= len(pool):
        raise ValueError(f'num_permutations={count} of {length} tiles must be between 1 and {len(pool)}')
    chosen = [int(torch.randint(len(pool), (), generator=generator))]
    nearest = torch.full((len(pool),), length + 1)
    for _ in range(count - 1):
        nearest = torch.minimum(nearest, (pool != pool[chosen[-1]]).sum(dim=1))
        chosen.append(int(nearest.argmax()))
    return pool[chosen]


@MODELS.register_module()
class Jigsaw(PretextTask):
    """Predict by which of a fixed set of permutations the tiles of an image were shuffled (section 3).

    An image is cut into 3x3 squares; of each a smaller tile at a random location is used, so that edges do
    not continue, and normalised by its own mean and deviation, so that colours do not either.

    Args:
        backbone: As for :class:`PretextTask`.
        head: As for :class:`PretextTask`.
        num_permutations: Number of classes; the paper has up to 1000.
        tile_size: Side of a tile in pixels; the paper cuts 64 of 75.
        **kwargs: Passed on to :class:`PretextTask`.
    """

    num_inputs = 9

    def __init__(
        self, backbone: dict, head: dict, num_permutations: int = 1000, tile_size: int = 64, **kwargs
    ):
        if tile_size < 2:
            raise ValueError(f'tile_size={tile_size} must be 2 pixels or more')
        table = permutation_set(num_permutations)
        self.out_channels = num_permutations
        super().__init__(backbone, head, **kwargs)
        self.tile_size = tile_size
        self.register_buffer('permutations', table)

    def tiles(self, images: Tensor, corners: Tensor | None = None) -> Tensor:
        """Cut images into normalised tiles.

        Args:
            images: (B, 3, H, W).
            corners: (B, 9, 2), top and left of each tile in its square; drawn if None.

        Returns:
            (B, 9, 3, T, T), row by row.

        Raises:
            ValueError: The squares are smaller than a tile.
        """
        height, width = images.shape[2] // 3, images.shape[3] // 3
        if min(height, width) < self.tile_size:
            raise ValueError(
                f'images of {images.shape[2]}x{images.shape[3]} give squares of {height}x{width}, smaller '
                f'than tile_size={self.tile_size}; crop larger or set a smaller tile_size'
            )
        device = images.device
        if corners is None:
            shape = len(images), 9
            top = torch.randint(height - self.tile_size + 1, shape, device=device)
            left = torch.randint(width - self.tile_size + 1, shape, device=device)
            corners = torch.stack([top, left], dim=2)
        steps = torch.arange(3, device=device)
        corners = corners + torch.cartesian_prod(steps * height, steps * width)
        offsets = torch.arange(self.tile_size, device=device)
        rows = (corners[..., :1] + offsets)[..., :, None]
        columns = (corners[..., 1:] + offsets)[..., None, :]
        batch = torch.arange(len(images), device=device)[:, None, None, None]
        tiles = images[batch, :, rows, columns].permute(0, 1, 4, 2, 3)
        variance, mean = torch.var_mean(tiles, dim=(3, 4), keepdim=True)
        return (tiles - mean) / (variance + 1e-6).sqrt()

    def loss(
        self,
        inputs: Tensor | list[Tensor],
        data_samples: list | None = None,
        labels: Tensor | None = None,
        corners: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Compute the loss of a batch.

        Args:
            inputs: (B, 3, H, W), normalised, or a list of views of that shape.
            data_samples: Ignored.
            labels: (B,) permutation of each image; drawn if None.
            corners: As for :meth:`tiles`.

        Returns:
            ``dict(loss=scalar, accuracy=scalar)``, chance 1 / ``num_permutations``.
        """
        images = self.images(inputs)
        tiles = self.tiles(images, corners)
        if labels is None:
            labels = torch.randint(len(self.permutations), (len(images),), device=images.device)
        order = self.permutations[labels][:, :, None, None, None].expand_as(tiles)
        shuffled = tiles.gather(1, order).flatten(0, 1).contiguous(memory_format=self.memory_format)
        features = self.head.pool(self.backbone(shuffled)).unflatten(0, (len(images), 9))
        return self.classify(features.flatten(1), labels)


@MODELS.register_module()
class PixelHead(BaseModule):
    """Predict maps of pixels from the last feature map: a 1x1 convolution, resized bilinearly.

    Args:
        in_channels: Channels C of the backbone's last output.
        out_channels: Channels of the prediction; inside a model the model's.
    """

    def __init__(self, in_channels: int, out_channels: int = 3):
        super().__init__()
        self.out_channels = out_channels
        self.conv = nn.Conv2d(in_channels, out_channels, 1)

    def init_weights(self) -> None:
        """Draw the initial weights again, with torch's defaults."""
        self.conv.reset_parameters()
        super().init_weights()

    def forward(self, outputs: tuple[Tensor, ...], size: tuple[int, int]) -> Tensor:
        """Turn outputs of a backbone, the last (B, C, h, w), into (B, out_channels, *size)."""
        return F.interpolate(self.conv(outputs[-1]), size=size, mode='bilinear', align_corners=False)


class PixelTask(SelfSupervisor):
    """Backbone and :class:`PixelHead` that predict pixels which the backbone does not get.

    Args:
        backbone: Config, or built; its last output is (B, C, h, w).
        head: Config of a :class:`PixelHead`, or built.
        **kwargs: Passed on to :class:`~mmssl.selfsup.base.SelfSupervisor`.
    """

    def __init__(self, backbone: dict, head: dict, **kwargs):
        self.out_channels = self.channels_to_predict(_channels(backbone))
        if isinstance(head, dict):
            head = {'out_channels': self.out_channels, **head}
        refuse_unused(type(self).__name__, kwargs, {'neck': None}, 'the head reads the backbone')
        super().__init__(backbone=backbone, head=build(head, MODELS), **kwargs)
        if self.head.out_channels != self.out_channels:
            raise ValueError(
                f'head has out_channels={self.head.out_channels}; {type(self).__name__} predicts '
                f'{self.out_channels} channels'
            )

    def channels_to_predict(self, in_channels: int) -> int:
        """Return the number of channels to predict of images of ``in_channels``."""
        return in_channels

    def predict_pixels(self, images: Tensor) -> Tensor:
        """Predict (B, out_channels, H, W) from images (B, C, H, W)."""
        return self.head(self.backbone(images), images.shape[2:])


@MODELS.register_module()
class Colorization(PixelTask):
    """Predict two colour differences of every pixel from its lightness.

    The plain form, with the squared error of equation 1 of the paper; its classes of colours (equation 2) are
    left out. Lightness is the luma Y of RGB, the differences are R - Y and B - Y, of the normalised channels.

    Args:
        backbone: As for :class:`PixelTask`; it gets the lightness three times.
        head: As for :class:`PixelTask`.
        **kwargs: Passed on to :class:`PixelTask`.

    Raises:
        ValueError: The backbone does not read three channels.
    """

    def channels_to_predict(self, in_channels: int) -> int:
        """Return 2."""
        if in_channels != 3:
            raise ValueError(
                f'the backbone of Colorization has in_channels={in_channels}: it predicts the colors of RGB; '
                'take Inpainting for other images'
            )
        return 2

    def loss(self, inputs: Tensor | list[Tensor], data_samples: list | None = None) -> dict[str, Tensor]:
        """Compute the loss of a batch.

        Args:
            inputs: (B, 3, H, W), RGB, normalised, or a list of views of that shape.
            data_samples: Ignored.

        Returns:
            ``dict(loss=scalar)``, the mean squared error of the differences.
        """
        images = torch.cat(self.views([inputs] if isinstance(inputs, Tensor) else inputs))
        lightness = sum(weight * images[:, i : i + 1] for i, weight in enumerate(LUMA))
        colors = images[:, ::2] - lightness
        return dict(loss=F.mse_loss(self.predict_pixels(lightness.expand_as(images)), colors))


@MODELS.register_module()
class Inpainting(PixelTask):
    """Predict the pixels of a removed square from its surroundings (section 3, equation 1).

    The removed square is 0, the mean of normalised images. There is no adversarial loss.

    Args:
        backbone: As for :class:`PixelTask`.
        head: As for :class:`PixelTask`.
        hole: Side of the square as a fraction of the image's; the paper has a half.
        random_hole: Draw the location of the square for each image; the paper's central region if False.
        **kwargs: Passed on to :class:`PixelTask`.
    """

    def __init__(self, backbone: dict, head: dict, hole: float = 0.5, random_hole: bool = False, **kwargs):
        if not 0 < hole < 1:
            raise ValueError(f'hole={hole} must be a fraction in (0, 1), such as 0.5')
        super().__init__(backbone, head, **kwargs)
        self.hole = hole
        self.random_hole = random_hole

    def draw(self, images: Tensor) -> Tensor:
        """Return (B, 1, H, W), True for the removed pixels of images (B, 3, H, W)."""
        inside = []
        for length in images.shape[2:]:
            side = min(max(round(self.hole * length), 1), length - 1)
            first = (length - side) // 2
            if self.random_hole:
                first = torch.randint(length - side + 1, (len(images), 1), device=images.device)
            index = torch.arange(length, device=images.device).expand(len(images), length)
            inside.append((index >= first) & (index < first + side))
        return inside[0][:, None, :, None] & inside[1][:, None, None, :]

    def loss(
        self, inputs: Tensor | list[Tensor], data_samples: list | None = None, hole: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Compute the loss of a batch.

        Args:
            inputs: (B, 3, H, W), normalised, or a list of views of that shape.
            data_samples: Ignored.
            hole: (B, 1, H, W), True for the removed pixels; drawn if None.

        Returns:
            ``dict(loss=scalar)``, the mean squared error of the removed pixels.
        """
        images = torch.cat(self.views([inputs] if isinstance(inputs, Tensor) else inputs))
        hole = self.draw(images) if hole is None else hole
        error = (self.predict_pixels(images.masked_fill(hole, 0)) - images).square() * hole
        return dict(loss=error.sum() / (images.shape[1] * hole.sum()))


def _channels(backbone: dict | nn.Module) -> int:
    return backbone.get('in_channels', 3) if isinstance(backbone, dict) else input_channels(backbone)


def _small_loss(model: SelfSupervisor, images: Tensor) -> Tensor:
    return model.loss([images])['loss']


PIXELS = dict(type='mmssl.PixelHead', in_channels=64)
SMALL = {
    'Jigsaw': Small(dict(backbone=RESNET, head=HEAD, num_permutations=8, tile_size=8), _small_loss),
    'PixelHead': Small(
        dict(in_channels=3, out_channels=2), lambda head, images: head((images,), (5, 6)), (2, 2, 5, 6)
    ),
    'Colorization': Small(dict(backbone=RESNET, head=PIXELS), _small_loss),
    'Inpainting': Small(dict(backbone=RESNET, head=PIXELS), _small_loss),
}
