"""Tokenizer of DALL-E (Ramesh et al., ICML 2021, arXiv:2102.12092), which BEiT predicts."""

import math
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmssl.layers.patch import patch_grid
from mmssl.ops.precision import no_autocast
from mmssl.registry import MODELS
from mmssl.selfsup.dalle_file import read_dalle
from mmssl.selfsup.small import Small, forward
from mmssl.selfsup.tokenizer_base import Tokenizer


class Conv(nn.Module):
    """Convolution that keeps the size of the map, with the released parameter names ``w`` and ``b``."""

    def __init__(self, n_in: int, n_out: int, kernel: int):
        super().__init__()
        self.w = nn.Parameter(torch.empty(n_out, n_in, kernel, kernel), requires_grad=False)
        self.b = nn.Parameter(torch.zeros(n_out), requires_grad=False)

    def reset_parameters(self) -> None:
        """Draw the weight as in the released code."""
        nn.init.normal_(self.w, std=1 / math.sqrt(self.w[0].numel()))
        nn.init.zeros_(self.b)

    def forward(self, x: Tensor) -> Tensor:
        """(B, n_in, H, W) to (B, n_out, H, W)."""
        return F.conv2d(x, self.w, self.b, padding=self.w.shape[-1] // 2)


class Block(nn.Module):
    """Residual bottleneck of four convolutions, each after a ReLU."""

    def __init__(self, n_in: int, n_out: int, gain: float):
        super().__init__()
        self.gain = gain
        hidden = n_out // 4
        self.id_path = nn.Identity() if n_in == n_out else Conv(n_in, n_out, 1)
        path: OrderedDict[str, nn.Module] = OrderedDict()
        sizes = [(n_in, hidden, 3), (hidden, hidden, 3), (hidden, hidden, 3), (hidden, n_out, 1)]
        for index, size in enumerate(sizes, start=1):
            path[f'relu_{index}'] = nn.ReLU()
            path[f'conv_{index}'] = Conv(*size)
        self.res_path = nn.Sequential(path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, n_in, H, W) to (B, n_out, H, W)."""
        return torch.add(self.id_path(x), self.res_path(x), alpha=self.gain)


@MODELS.register_module()
class DALLEEncoder(Tokenizer):
    """Encoder of DALL-E's discrete VAE (appendix A.2): 8192 tokens, one for 8x8 pixels.

    The released ``encoder.pkl`` is read as it is, without running what is in it. Parameter names are as
    released.

    Args:
        checkpoint: The released ``encoder.pkl``, or a state dict with its names; 'random' for random weights.
        num_tokens: Size of the vocabulary.
        n_hid: Channels of the first group; each of the four has twice as many as the one before.
        n_blk_per_group: Blocks in a group.
    """

    HOW = (
        "it is OpenAI's encoder.pkl of DALL-E (github.com/openai/DALL-E); a tokenizer that needs no "
        'download: mmssl tokenizer fit --data DIR --out FILE.pth'
    )

    def __init__(self, checkpoint: str, num_tokens: int = 8192, n_hid: int = 256, n_blk_per_group: int = 2):
        super().__init__(checkpoint, num_tokens)
        gain = 1 / (4 * n_blk_per_group) ** 2
        groups: OrderedDict[str, nn.Module] = OrderedDict(input=Conv(3, n_hid, 7))
        width = n_hid
        for group in range(4):
            blocks: OrderedDict[str, nn.Module] = OrderedDict()
            for index in range(n_blk_per_group):
                blocks[f'block_{index + 1}'] = Block(width, n_hid * 2**group, gain)
                width = n_hid * 2**group
            if group < 3:
                blocks['pool'] = nn.MaxPool2d(2)
            groups[f'group_{group + 1}'] = nn.Sequential(blocks)
        groups['output'] = nn.Sequential(OrderedDict(relu=nn.ReLU(), conv=Conv(width, num_tokens, 1)))
        self.blocks = nn.Sequential(groups)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw random weights as in the released code."""
        for module in self.modules():
            if isinstance(module, Conv):
                module.reset_parameters()

    def read(self, path: str) -> None:
        """Load the weights from the released pickle or from a state dict."""
        weights = {
            key.removeprefix('target_generator.').removeprefix('encoder.'): value
            for key, value in read_dalle(path).items()
        }
        state = self.state_dict()
        wrong = sorted(set(state) ^ set(weights))
        wrong += [key for key in state if key in weights and state[key].shape != weights[key].shape]
        if wrong:
            raise ValueError(
                f'{path} is not the encoder of DALL-E with {self.num_tokens} tokens: {len(wrong)} tensors '
                f'are missing, unknown or of another shape ({", ".join(wrong[:3])})'
            )
        self.load_state_dict(weights)

    def grid_of(self, height: int, width: int) -> tuple[int, int]:
        """Return (rows, columns) of the tokens of an image."""
        return patch_grid(height, width, (8, 8))

    def hidden(self, pixels: Tensor) -> Tensor:
        """Compute the input of the last convolution, (B, C, H / 8, W / 8), from (B, 3, H, W) RGB in [0, 1].

        On a GPU in half precision, as released; elsewhere in the precision of the weights.
        """
        self.grid_of(*pixels.shape[-2:])  # checks the size
        device, dtype = pixels.device.type, self.blocks.input.w.dtype
        on_gpu = device == 'cuda'
        with torch.autocast(device, dtype=torch.float16 if on_gpu else None, enabled=on_gpu):
            return self.blocks.output.relu(self.blocks[:-1](map_pixels(pixels.to(dtype)))).to(dtype)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W), RGB in [0, 1], to logits (B, K, H / 8, W / 8)."""
        hidden = self.hidden(pixels)
        with no_autocast(pixels):
            return self.blocks.output.conv(hidden)

    @torch.no_grad()
    def tokenize(self, pixels: Tensor, rows: Tensor | None = None) -> Tensor:
        """As :meth:`Tokenizer.tokenize`; logits are computed for the requested patches only."""
        self.check_weights()
        hidden = self.hidden(pixels).permute(0, 2, 3, 1).flatten(0, 2)
        if rows is not None:
            hidden = hidden.index_select(0, rows)
        last = self.blocks.output.conv
        with no_autocast(pixels):
            return F.linear(hidden, last.w.flatten(1), last.b).argmax(dim=1)


def map_pixels(pixels: Tensor) -> Tensor:
    """Map [0, 1] to [0.1, 0.9], the range of DALL-E's autoencoder (equation 1, eps = 0.1)."""
    return 0.8 * pixels + 0.1


SMALL = {'DALLEEncoder': Small(dict(checkpoint='random', num_tokens=5, n_hid=8), forward, (2, 5, 4, 4))}
