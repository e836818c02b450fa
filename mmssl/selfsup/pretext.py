"""Two classic pretext tasks: rotation of an image, and relative location of two of its patches.

Rotation prediction (Gidaris, Singh, Komodakis, ICLR 2018, arXiv:1803.07728) and context prediction (Doersch,
Gupta, Efros, ICCV 2015, arXiv:1505.05192). Both make their own labels and train a plain classifier.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmssl.layers.unused_arguments import refuse_unused
from mmssl.registry import MODELS, build
from mmssl.selfsup.base import SelfSupervisor
from mmssl.selfsup.small import RESNET, Small
from mmssl.selfsup.views import image_features


@MODELS.register_module()
class PretextHead(BaseModule):
    """Classifier of a pretext task: pooled features, those of several images side by side, to class scores.

    Args:
        in_channels: Channels C of the backbone's last output.
        out_channels: Number of classes, 4 rotations or 8 relative locations; inside a model the model's. (Not
            ``num_classes``, which would have to agree with the classes of the data.)
        num_inputs: Images whose features are classified together; inside a model the model's.
        hid_channels: Channels of a hidden layer with batch norm and ReLU; None for no such layer.
    """

    def __init__(
        self, in_channels: int, out_channels: int = 4, num_inputs: int = 1, hid_channels: int | None = None
    ):
        super().__init__()
        if min(in_channels, out_channels, num_inputs, hid_channels or 1) < 1:
            raise ValueError(
                f'in_channels={in_channels}, out_channels={out_channels}, num_inputs={num_inputs} and '
                f'hid_channels={hid_channels} of PretextHead must be above 0'
            )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.num_inputs = num_inputs
        width = num_inputs * in_channels
        self.hidden = nn.Identity()
        if hid_channels:
            self.hidden = nn.Sequential(
                nn.Linear(width, hid_channels, bias=False),
                nn.BatchNorm1d(hid_channels),
                nn.ReLU(inplace=True),
            )
        self.fc = nn.Linear(hid_channels or width, out_channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights from N(0, 0.01), biases 0; reset the batch norm."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.BatchNorm1d):
                module.reset_parameters()

    def init_weights(self) -> None:
        """Draw the initial weights."""
        self.reset_parameters()
        super().init_weights()

    def pool(self, features) -> Tensor:
        """Pool a backbone's outputs, the last of which is (B, C, h, w) or (B, C), to (B, C).

        Raises:
            ValueError: C is not ``in_channels``.
        """
        features = image_features(features)
        if features.shape[1] != self.in_channels:
            raise ValueError(
                f'head has in_channels={self.in_channels}, but the backbone has {features.shape[1]} '
                f'channels; set in_channels={features.shape[1]}'
            )
        return features

    def forward(self, features: Tensor) -> Tensor:
        """(B, num_inputs * C) to scores (B, out_channels)."""
        return self.fc(self.hidden(features))


class PretextTask(SelfSupervisor):
    """Backbone and :class:`PretextHead` that learn labels made by the method.

    Args:
        backbone: Config, or built.
        head: Config of a :class:`PretextHead`, whose numbers of classes and inputs are the task's, or built.
        **kwargs: Passed on to :class:`~mmssl.selfsup.base.SelfSupervisor`.

    Raises:
        ValueError: The head has other numbers.
    """

    out_channels: int
    num_inputs: int = 1

    def __init__(self, backbone: dict, head: dict, **kwargs):
        if isinstance(head, dict):
            head = {'out_channels': self.out_channels, 'num_inputs': self.num_inputs, **head}
        refuse_unused(type(self).__name__, kwargs, {'neck': None}, 'the head reads the backbone')
        super().__init__(backbone=backbone, head=build(head, MODELS), **kwargs)
        if (self.head.out_channels, self.head.num_inputs) != (self.out_channels, self.num_inputs):
            raise ValueError(
                f'head has out_channels={self.head.out_channels} and num_inputs={self.head.num_inputs}; '
                f'{type(self).__name__} has {self.out_channels} and {self.num_inputs}, and sets them where '
                'the config does not'
            )

    def images(self, inputs: Tensor | list[Tensor]) -> Tensor:
        """Join a batch (B, 3, H, W), or several views, to one batch in the memory format of the backbone."""
        return torch.cat(self.views([inputs] if isinstance(inputs, Tensor) else inputs))

    def classify(self, features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Compute cross-entropy and accuracy.

        Args:
            features: (B, num_inputs * C).
            labels: (B,).
        """
        scores = self.head(features)
        accuracy = (scores.detach().argmax(dim=1) == labels).to(scores.dtype).mean()
        return dict(loss=F.cross_entropy(scores, labels), accuracy=accuracy)


@MODELS.register_module()
class RotationPrediction(PretextTask):
    """Predict by how many quarter turns an image was rotated (section 3.1 of the paper): four classes.

    All four rotations of every image are in the batch together (section 3.1, 'Rotation prediction': better
    than one random rotation each).

    Args:
        backbone: As for :class:`PretextTask`.
        head: As for :class:`PretextTask`.
        **kwargs: Passed on to :class:`PretextTask`.
    """

    out_channels = 4

    def rotate(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Rotate a batch.

        Args:
            images: (B, 3, S, S).

        Returns:
            (4 * B, 3, S, S), all images as they are, then all by 90, 180 and 270 degrees counter-clockwise;
            and the class of each, (4 * B,).

        Raises:
            ValueError: The images are not square: their shape would give the rotation away.
        """
        if images.shape[2] != images.shape[3]:
            raise ValueError(
                f'RotationPrediction takes square images, not {images.shape[2]}x{images.shape[3]}, whose '
                'shape gives the rotation away'
            )
        rotated = torch.cat([images.rot90(turns, (2, 3)) for turns in range(4)])
        labels = torch.arange(4, device=images.device).repeat_interleave(len(images))
        return rotated.contiguous(memory_format=self.memory_format), labels

    def loss(self, inputs: Tensor | list[Tensor], data_samples: list | None = None) -> dict[str, Tensor]:
        """Compute the loss of a batch.

        Args:
            inputs: (B, 3, S, S), normalised, or a list of views of that shape.
            data_samples: Ignored.

        Returns:
            ``dict(loss=scalar, accuracy=scalar)``, chance 1/4.
        """
        images, labels = self.rotate(self.images(inputs))
        return self.classify(self.head.pool(self.backbone(images)), labels)


class PatchDraw(NamedTuple):
    """Everything random about the patches of a batch.

    Attributes:
        corners: (B, 9, 2) top and left of every patch, pixels.
        channel: (B, 9) the channel that stays where the others are dropped.
        dropped: (B, 9) bool, where all others are dropped.
        noise: (B * 9, C, P, P) from N(0, 1), which replaces dropped channels.
    """

    corners: Tensor
    channel: Tensor
    dropped: Tensor
    noise: Tensor


@MODELS.register_module()
class RelativeLocation(PretextTask):
    """Predict which of its eight neighbours in a 3x3 grid a patch is paired with (section 3 of the paper).

    The centre is paired with each of its eight neighbours, so nine patches of an image give eight pairs. Gap
    and jitter keep edges from continuing across patches, dropped colors keep chromatic aberration from giving
    locations away (section 3.1, 'Avoiding "trivial" solutions'). Patches are cut on the device.

    Args:
        backbone: As for :class:`PretextTask`.
        head: As for :class:`PretextTask`.
        patch_size: Side of a patch, pixels; the paper has 96.
        gap: Pixels between neighbours before jitter; the paper has 48.
        jitter: Maximum shift of every patch in each direction, pixels; the paper has 7.
        drop_prob: Probability that all but one of a patch's channels are replaced by noise with 1/100 of the
            standard deviation of that one; the paper drops in every patch.
        **kwargs: Passed on to :class:`PretextTask`.
    """

    out_channels = 8
    num_inputs = 2

    def __init__(
        self,
        backbone: dict,
        head: dict,
        patch_size: int = 96,
        gap: int = 48,
        jitter: int = 7,
        drop_prob: float = 1.0,
        **kwargs,
    ):
        if patch_size < 1 or gap < 0 or jitter < 0:
            raise ValueError(
                f'patch_size={patch_size} must be above 0, gap={gap} and jitter={jitter} 0 or more'
            )
        if not 0 <= drop_prob <= 1:
            raise ValueError(f'drop_prob={drop_prob} must be a probability in [0, 1]')
        super().__init__(backbone, head, **kwargs)
        self.patch_size = patch_size
        self.gap = gap
        self.jitter = jitter
        self.drop_prob = drop_prob

    @property
    def min_size(self) -> int:
        """Pixels that the grid needs in each direction."""
        return 3 * self.patch_size + 2 * self.gap + 2 * self.jitter

    def draw(self, images: Tensor) -> PatchDraw:
        """Draw the location of the grid in images (B, 3, H, W), the jitter of each patch, the dropped colors.

        Raises:
            ValueError: The images are smaller than the grid.
        """
        batch, _, height, width = images.shape
        if min(height, width) < self.min_size:
            raise ValueError(
                f'images of {height}x{width} are too small: patch_size={self.patch_size}, gap={self.gap} and '
                f'jitter={self.jitter} need {self.min_size}x{self.min_size}; crop larger or shrink these'
            )
        device = images.device
        top = torch.randint(height - self.min_size + 1, (batch, 1), device=device)
        left = torch.randint(width - self.min_size + 1, (batch, 1), device=device)
        shift = torch.randint(2 * self.jitter + 1, (batch, 9, 2), device=device)
        steps = torch.arange(3, device=device) * (self.patch_size + self.gap)
        corners = torch.stack([top, left], dim=2) + shift + torch.cartesian_prod(steps, steps)
        channel = torch.randint(images.shape[1], (batch, 9), device=device)
        dropped = torch.rand(batch, 9, device=device) < self.drop_prob
        shape = batch * 9, images.shape[1], self.patch_size, self.patch_size
        noise = torch.randn(shape, dtype=images.dtype, device=device)
        return PatchDraw(corners, channel, dropped, noise)

    def patches(self, images: Tensor, draw: PatchDraw) -> Tensor:
        """Cut (B, 3, H, W) into (B * 9, 3, P, P), image after image, row by row, and drop their colors."""
        offsets = torch.arange(self.patch_size, device=images.device)
        rows = (draw.corners[..., :1] + offsets)[..., :, None]
        columns = (draw.corners[..., 1:] + offsets)[..., None, :]
        batch = torch.arange(len(images), device=images.device)[:, None, None, None]
        # (B, 9, P, P, 3): the channels come last, as a convolutional backbone wants them
        patches = images[batch, :, rows, columns].flatten(0, 1).permute(0, 3, 1, 2)
        channel = draw.channel.view(-1, 1)
        deviation = patches.flatten(2).std(dim=2).gather(1, channel)
        unchanged = channel == torch.arange(images.shape[1], device=images.device)
        unchanged = unchanged | ~draw.dropped.view(-1, 1)
        noise = 0.01 * deviation[..., None, None] * draw.noise
        patches = torch.where(unchanged[..., None, None], patches, noise)
        return patches.contiguous(memory_format=self.memory_format)

    def loss(
        self, inputs: Tensor | list[Tensor], data_samples: list | None = None, draw: PatchDraw | None = None
    ) -> dict[str, Tensor]:
        """Compute the loss of a batch.

        Args:
            inputs: (B, 3, H, W), normalised, or a list of views of that shape.
            data_samples: Ignored.
            draw: Locations and colors of the patches.

        Returns:
            ``dict(loss=scalar, accuracy=scalar)``, chance 1/8.
        """
        images = self.images(inputs)
        patches = self.patches(images, draw or self.draw(images))
        features = self.head.pool(self.backbone(patches)).unflatten(0, (len(images), 9))
        # the classes number the neighbours row by row
        neighbours = torch.cat([features[:, :4], features[:, 5:]], dim=1)
        centres = features[:, 4:5].expand_as(neighbours)
        pairs = torch.cat([centres, neighbours], dim=2).flatten(0, 1)
        return self.classify(pairs, torch.arange(8, device=images.device).repeat(len(images)))


def _small_loss(model: PretextTask, images: Tensor) -> Tensor:
    return model.loss([images])['loss']


HEAD = dict(type='mmssl.PretextHead', in_channels=64)
SMALL = {
    'PretextHead': Small(
        dict(in_channels=4, out_channels=8, num_inputs=2, hid_channels=16),
        lambda head, images: head(images[:, 0, :4, :2].flatten(1)),
        (2, 8),
    ),
    'RotationPrediction': Small(dict(backbone=RESNET, head=HEAD), _small_loss),
    'RelativeLocation': Small(
        dict(backbone=RESNET, head=HEAD, patch_size=8, gap=4, jitter=0, drop_prob=0.0), _small_loss
    ),
}
