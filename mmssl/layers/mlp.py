"""The projectors and predictors of contrastive methods."""

from collections.abc import Sequence

from mmengine.model import BaseModule
from torch import Tensor, nn

from mmssl.registry import MODELS


@MODELS.register_module()
class MLP(BaseModule):
    """Linear layers with batch norm and ReLU between them, named as in mmpretrain's NonLinearNeck.

    Args:
        dims: Widths from input to output, such as ``(2048, 4096, 256)`` for two layers, ``fc0`` and ``fc1``.
            A hidden layer is followed by ``bn{i}``.
        bias: Whether the linear layers have a bias.
        last_bn: Whether the last layer has a batch norm, without scale and shift (MoCo v3, arXiv:2104.02057,
            section 4).
        init_cfg: Initialisation in mmengine's form.
    """

    # mmpretrain's NonLinearNeck has a single hidden width and returns tuples

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
                f'dims={dims!r} of an MLP must be its widths from input to output, such as (2048, 4096, 256)'
            )
        self.dims = tuple(dims)
        self.num_layers = len(dims) - 1
        self.last_bn = last_bn
        for index in range(self.num_layers):
            is_last = index == self.num_layers - 1
            self.add_module(f'fc{index}', nn.Linear(dims[index], dims[index + 1], bias=bias))
            if last_bn or not is_last:
                self.add_module(f'bn{index}', nn.BatchNorm1d(dims[index + 1], affine=not is_last))

    def init_weights(self) -> None:
        """Draw the initial weights again, with torch's defaults."""
        for module in self.children():
            module.reset_parameters()
        super().init_weights()

    def forward(self, x: Tensor | tuple[Tensor, ...]) -> Tensor:
        """Project features.

        Args:
            x: (B, C); or a feature map (B, C, H, W), which is averaged; or a tuple of backbone outputs, of
                which the last is used.

        Returns:
            (B, dims[-1]).
        """
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
