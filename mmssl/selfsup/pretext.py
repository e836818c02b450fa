"""Two classic pretext tasks: which way up an image is, and how two of its patches lie to each other.

Rotation prediction (Gidaris, Singh, Komodakis, ICLR 2018, arXiv:1803.07728) and context prediction (Doersch,
Gupta, Efros, ICCV 2015, arXiv:1505.05192). Both make their own labels and train a plain classifier.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmssl.registry import MODELS, build
from mmssl.selfsup.base import SelfSupervisor


@MODELS.register_module()
class PretextHead(BaseModule):
    """Classifier of a pretext task: averaged features, several images' side by side, to class scores.

    Args:
        in_channels: width C of the backbone's last output.
        out_channels: number of answers, 4 rotations or 8 relative locations; inside a model the model's. (Not
            ``num_classes``: that would have to agree with the classes of the data.)
        num_inputs: images whose features one score takes in; inside a model the model's.
        hid_channels: width of a hidden layer with batch norm and ReLU; None for none.
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
        self.in_channels, self.out_channels, self.num_inputs = in_channels, out_channels, num_inputs
        width = num_inputs * in_channels
        self.hidden = nn.Identity()
        if hid_channels:
            self.hidden = nn.Sequential(
                nn.Linear(width, hid_channels, bias=False), nn.BatchNorm1d(hid_channels), nn.ReLU(inplace=True)
            )
        self.fc = nn.Linear(hid_channels or width, out_channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weights from N(0, 0.01), no bias, the norm at its start."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.BatchNorm1d):
                module.reset_parameters()

    def init_weights(self) -> None:
        """Draw the initial weights anew."""
        self.reset_parameters()
        super().init_weights()

    def pool(self, features) -> Tensor:
        """(B, C) out of a backbone's outputs, the last of which is (B, C, h, w) or (B, C).

        Raises:
            ValueError: it is of another width.
        """
        features = features[-1] if isinstance(features, (tuple, list)) else features
        features = features.mean(dim=(2, 3)) if features.ndim == 4 else features
        if features.shape[1] != self.in_channels:
            raise ValueError(
                f'head has in_channels={self.in_channels}, but the backbone is {features.shape[1]} wide; set '
                f'in_channels={features.shape[1]}'
            )
        return features

    def forward(self, features: Tensor) -> Tensor:
        """(B, num_inputs * C) to scores (B, out_channels)."""
        return self.fc(self.hidden(features))


class PretextTask(SelfSupervisor):
    """A backbone and a :class:`PretextHead` that learn labels which the method makes.

    Args:
        backbone: config, or built.
        head: config of a :class:`PretextHead`, whose numbers of answers and inputs are the task's, or built.
        others: as for :class:`mmssl.selfsup.base.SelfSupervisor`.

    Raises:
        ValueError: a head with other numbers.
    """

    out_channels: int
    num_inputs: int = 1

    def __init__(self, backbone: dict, head: dict, **kwargs):
        if isinstance(head, dict):
            head = {'out_channels': self.out_channels, 'num_inputs': self.num_inputs, **head}
        super().__init__(backbone=backbone, head=build(head, MODELS), **kwargs)
        found, wanted = (self.head.out_channels, self.head.num_inputs), (self.out_channels, self.num_inputs)
        if found != wanted:
            raise ValueError(
                f'head has out_channels={found[0]} and num_inputs={found[1]}; {type(self).__name__} has {wanted[0]} and '
                f'{wanted[1]}, and sets them where the config does not'
            )

    def extract_feat(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) to the output of the plain backbone."""
        return self.backbone(inputs)

    def images(self, inputs: Tensor | list[Tensor]) -> Tensor:
        """A batch (B, 3, H, W), or several views one after the other, in the memory format of the backbone."""
        return torch.cat(self.views([inputs] if isinstance(inputs, Tensor) else inputs))

    def classify(self, features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Cross-entropy and share of right answers.

        Args:
            features: (B, num_inputs * C).
            labels: (B,).
        """
        scores = self.head(features)
        accuracy = (scores.detach().argmax(dim=1) == labels).to(scores.dtype).mean()
        return dict(loss=F.cross_entropy(scores, labels), accuracy=accuracy)


@MODELS.register_module()
class RotationPrediction(PretextTask):
    """Tell by how many quarter turns an image was turned (section 3.1 of the paper): four classes.

    All four turns of every image are in the batch together (section 3.1, 'Rotation prediction': better than
    one drawn turn each).

    Args:
        backbone, head, others: as for :class:`PretextTask`.
    """

    out_channels = 4

    def rotate(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Turn a batch.

        Args:
            images: (B, 3, S, S).

        Returns:
            (4 * B, 3, S, S), all images unturned, then all by 90, 180 and 270 degrees counter-clockwise; and
            the class of each.

        Raises:
            ValueError: images that are not square, whose shape would give the turn away.
        """
        if images.shape[2] != images.shape[3]:
            raise ValueError(
                f'RotationPrediction takes square images, not {images.shape[2]}x{images.shape[3]}: their shape tells the turn'
            )
        turned = torch.cat([images, *(images.rot90(turns, (2, 3)) for turns in (1, 2, 3))])
        labels = torch.arange(4, device=images.device).repeat_interleave(len(images))
        return turned.contiguous(memory_format=self.memory_format), labels

    def loss(self, inputs: Tensor | list[Tensor], data_samples: list | None = None) -> dict[str, Tensor]:
        """One training step's loss.

        Args:
            inputs: (B, 3, S, S), normalised, or a list of views of that shape.
            data_samples: ignored.

        Returns:
            ``dict(loss=scalar, accuracy=scalar)``, chance 1/4.
        """
        images, labels = self.rotate(self.images(inputs))
        return self.classify(self.head.pool(self.backbone(images)), labels)


class PatchDraw(NamedTuple):
    """Everything random about the patches of a batch.

    Attributes:
        corners: (B, 9, 2) top and left of every patch, pixels.
        kept: (B, 9) the colour channel that stays where two are dropped.
        dropped: (B, 9) bool, where two are dropped.
        noise: (B * 9, 3, P, P) from N(0, 1), what dropped channels become.
    """

    corners: Tensor
    kept: Tensor
    dropped: Tensor
    noise: Tensor


@MODELS.register_module()
class RelativeLocation(PretextTask):
    """Tell which neighbour of a patch another patch is, of a 3x3 grid of patches with gaps (section 3 of the paper): eight classes.

    The centre is paired with each of its eight neighbours, so that nine patches of an image give eight pairs.
    Gap and jitter keep edges from continuing across patches, dropped colours keep chromatic aberration from
    giving places away (section 3.1, 'Avoiding "trivial" solutions'). Patches are cut on the device.

    Args:
        backbone, head, others: as for :class:`PretextTask`.
        patch_size: side of a patch, pixels; the paper has 96.
        gap: pixels between neighbours before jitter; the paper has 48.
        jitter: largest shift of every patch in each direction, pixels; the paper has 7.
        drop_prob: probability that two of a patch's three channels are replaced by noise with 1/100 of the
            standard deviation of the third; the paper drops in every patch.
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
        self.patch_size, self.gap, self.jitter, self.drop_prob = patch_size, gap, jitter, drop_prob

    @property
    def least_size(self) -> int:
        """Pixels that the grid needs in each direction."""
        return 3 * self.patch_size + 2 * self.gap + 2 * self.jitter

    def draw(self, images: Tensor) -> PatchDraw:
        """Draw the patches of (B, 3, H, W): the place of the grid in the image, the jitter of each patch, the colours.

        Raises:
            ValueError: images smaller than the grid.
        """
        batch, _, height, width = images.shape
        if min(height, width) < self.least_size:
            raise ValueError(
                f'images of {height}x{width} are too small: patch_size={self.patch_size}, gap={self.gap} and '
                f'jitter={self.jitter} need {self.least_size}x{self.least_size}; crop larger or shrink these'
            )
        device = images.device
        origin = torch.stack(
            [
                torch.randint(side - self.least_size + 1, (batch, 1), device=device)
                for side in (height, width)
            ],
            dim=2,
        )
        shift = torch.randint(2 * self.jitter + 1, (batch, 9, 2), device=device)
        steps = torch.arange(3, device=device) * (self.patch_size + self.gap)
        corners = origin + shift + torch.cartesian_prod(steps, steps)
        kept = torch.randint(3, (batch, 9), device=device)
        dropped = torch.rand(batch, 9, device=device) < self.drop_prob
        noise = torch.randn(batch * 9, 3, self.patch_size, self.patch_size, dtype=images.dtype, device=device)
        return PatchDraw(corners, kept, dropped, noise)

    def patches(self, images: Tensor, draw: PatchDraw) -> Tensor:
        """Cut (B, 3, H, W) into (B * 9, 3, P, P), image after image, row by row, and drop their colours."""
        offsets = torch.arange(self.patch_size, device=images.device)
        rows = (draw.corners[..., :1] + offsets)[..., :, None]
        columns = (draw.corners[..., 1:] + offsets)[..., None, :]
        numbers = torch.arange(len(images), device=images.device)[:, None, None, None]
        # (B, 9, P, P, 3): the channels come last, as a convolutional backbone wants them
        patches = images[numbers, :, rows, columns].flatten(0, 1).permute(0, 3, 1, 2)
        deviation = patches.flatten(2).std(dim=2).gather(1, draw.kept.view(-1, 1))
        stays = (draw.kept.view(-1, 1) == torch.arange(3, device=images.device)) | ~draw.dropped.view(-1, 1)
        patches = torch.where(stays[..., None, None], patches, 0.01 * deviation[..., None, None] * draw.noise)
        return patches.contiguous(memory_format=self.memory_format)

    def loss(
        self, inputs: Tensor | list[Tensor], data_samples: list | None = None, draw: PatchDraw | None = None
    ) -> dict[str, Tensor]:
        """One training step's loss.

        Args:
            inputs: (B, 3, H, W), normalised, or a list of views of that shape.
            data_samples: ignored.
            draw: places and colours of the patches.

        Returns:
            ``dict(loss=scalar, accuracy=scalar)``, chance 1/8.
        """
        images = self.images(inputs)
        patches = self.patches(images, draw or self.draw(images))
        features = self.head.pool(self.backbone(patches)).unflatten(0, (len(images), 9))
        # the classes count the neighbours row by row
        neighbours = torch.cat([features[:, :4], features[:, 5:]], dim=1)
        pairs = torch.cat([features[:, 4:5].expand_as(neighbours), neighbours], dim=2).flatten(0, 1)
        return self.classify(pairs, torch.arange(8, device=images.device).repeat(len(images)))
