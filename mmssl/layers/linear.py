"""``nn.Linear`` on our own product."""

from torch import Tensor, nn

from mmssl.ops.linear import linear


class Linear(nn.Linear):
    """``nn.Linear`` whose float32 product on the CPU takes the faster library; parameters, names and results as in torch."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        return linear(x, self.weight, self.bias)
