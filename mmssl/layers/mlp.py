"""The projectors and predictors of contrastive methods."""

from collections.abc import Sequence

from mmengine.model import BaseModule
from torch import Tensor, nn

from mmssl.registry import MODELS


@MODELS.register_module()
class MLP(BaseModule):
    """Linear layers with batch norm and ReLU between them, under the names of mmpretrain's NonLinearNeck.

    The host's neck knows one hidden width, hands tuples on, and asks for a norm layer by configuration.

    Args:
        dims: widths from input to output, as ``(2048, 4096, 256)`` for two layers ``fc0`` and ``fc1``; hidden
            ones have ``bn{i}``.
        bias: of the linear layers.
        last_bn: whether the last layer has a batch norm, without scale and shift (MoCo v3, arXiv:2104.02057,
            section 4).
    """

    def __init__(
        self,
        dims: Sequence[int],
        bias: bool = False,
        last_bn: bool = False,
        init_cfg: dict | list | None = None,
    ):
        super().__init__(init_cfg)
        if len(dims) < 2 or not all(isinstance(width, int) and width > 0 for width in dims):
            raise ValueError(
                f'dims={dims!r} of an MLP; give the widths from input to output, such as (2048, 4096, 256)'
            )
        self.dims, self.num_layers, self.last_bn = tuple(dims), len(dims) - 1, last_bn
        for index, (width, following) in enumerate(zip(dims, dims[1:], strict=False)):
            last = index == self.num_layers - 1
            self.add_module(f'fc{index}', nn.Linear(width, following, bias=bias))
            if last_bn or not last:
                self.add_module(f'bn{index}', nn.BatchNorm1d(following, affine=not last))

    def init_weights(self) -> None:
        """Draw the initial weights anew, as torch does."""
        for module in self.children():
            module.reset_parameters()
        super().init_weights()

    def forward(self, x: Tensor | tuple[Tensor, ...]) -> Tensor:
        """(B, C), or the feature map (B, C, H, W) of a backbone, which is averaged, or a tuple that ends in one, to (B, out)."""
        if isinstance(x, (tuple, list)):
            x = x[-1]
        if x.ndim == 4:
            x = x.mean(dim=(2, 3))
        for index in range(self.num_layers):
            x = getattr(self, f'fc{index}')(x)
            if index < self.num_layers - 1:
                x = nn.functional.relu(getattr(self, f'bn{index}')(x), inplace=True)
            elif self.last_bn:
                x = getattr(self, f'bn{index}')(x)
        return x
