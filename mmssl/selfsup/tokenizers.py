"""Visual tokenizers for BEiT: which of K tokens a patch of an image is.

Both take RGB in [0, 1], so that a tokenizer does not depend on how the model's input is normalised. Neither
is trained here: weights come from a file, or, said so in the config, from the seed of the run
(``checkpoint='random'``: for smoke tests).
"""

import math
import os
import pickle
import types
import warnings
from collections import OrderedDict
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmssl.checkpoint import UnsafeCheckpointError, load_file, safe_loading, strip_module, weights_of
from mmssl.layers.patch import pair, patch_grid, patchify
from mmssl.registry import MODELS

RANDOM = 'random'


class Tokenizer(BaseModule):
    """What tokenizers share: a file of weights that is read when training begins, no gradients, the tokens of chosen patches.

    A subclass says in ``HOW`` where a missing file comes from.

    Args:
        checkpoint: file of the weights; 'random' draws them from the run's seed.
        num_tokens: K.
    """

    HOW = ''

    def __init__(self, checkpoint: str, num_tokens: int):
        super().__init__()
        if not isinstance(checkpoint, (str, os.PathLike)) or not str(checkpoint):
            raise ValueError(
                f'{type(self).__name__}: checkpoint={checkpoint!r} must name a file, or be {RANDOM!r}; {self.HOW}'
            )
        if num_tokens < 2:
            raise ValueError(f'{type(self).__name__}: num_tokens={num_tokens} must be at least 2')
        self.checkpoint, self.num_tokens = str(checkpoint), num_tokens
        self._has_weights = self.checkpoint == RANDOM

    def init_weights(self) -> None:
        """Read the file, or draw the weights anew.

        Raises:
            FileNotFoundError: there is no such file; the message says how to get it.
            ValueError: it is no file of this tokenizer, or of other sizes.
        """
        if self.checkpoint == RANDOM:
            self.reset_parameters()
            return
        path = os.path.expanduser(self.checkpoint)
        if not os.path.isfile(path):
            raise FileNotFoundError(f'no tokenizer {self.checkpoint}; {self.HOW}')
        self.read(path)
        self._has_weights = True

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._has_weights |= any(key.startswith(prefix) for key in state_dict)

    def reset_parameters(self) -> None:
        """Draw the weights from torch's generator."""
        raise NotImplementedError

    def read(self, path: str) -> None:
        """Take the weights from a file."""
        raise NotImplementedError

    def grid_of(self, height: int, width: int) -> tuple[int, int]:
        """(rows, columns) of tokens of an image."""
        raise NotImplementedError

    def train(self, mode: bool = True):
        """A tokenizer stays in evaluation mode."""
        return super().train(False)

    def check_weights(self) -> None:
        """Read the file now if nobody has called ``init_weights`` or loaded a checkpoint; errors as there."""
        if not self._has_weights:
            self.init_weights()

    def tokenize(self, pixels: Tensor, rows: Tensor | None = None) -> Tensor:
        """Tokens of patches.

        Args:
            pixels: (B, 3, H, W), RGB in [0, 1].
            rows: (T,) numbers of the wanted patches among all B * N; all of them when None.

        Returns:
            (T,), int64, in [0, K).
        """
        raise NotImplementedError


@MODELS.register_module()
class KMeansTokenizer(Tokenizer):
    """The nearest of K centroids of normalised patches, found by ``mmssl tokenizer fit`` on the user's own images.

    A patch is brought to mean 0 and contrast 1: (x - mean) / sqrt(variance + eps), both over all pixels and
        colours of the patch, so that a
    token stands for a structure, whatever the light (Coates, Lee and Ng, AISTATS 2011, section 3.2.1). Needs
    no download.

    Args:
        checkpoint: what ``mmssl tokenizer fit`` wrote, or 'random' (centroids from N(0, 1)).
        num_tokens: K, as in the file.
        patch_size: side of a patch in pixels, or (height, width), as in the file.
        in_channels: of the images.
        eps: keeps noise in flat patches small.

    Attributes:
        centroids: (K, p * q * C).
    """

    HOW = 'make it from your own images: mmssl tokenizer fit --data DIR --out FILE.pth'

    def __init__(
        self,
        checkpoint: str,
        num_tokens: int = 8192,
        patch_size: int | tuple[int, int] = 16,
        in_channels: int = 3,
        eps: float = 1e-3,
    ):
        super().__init__(checkpoint, num_tokens)
        self.patch_size, self.eps = pair(patch_size), float(eps)
        self.register_buffer(
            'centroids', torch.zeros(num_tokens, self.patch_size[0] * self.patch_size[1] * in_channels)
        )
        if self.checkpoint == RANDOM:
            self.reset_parameters()

    def reset_parameters(self) -> None:
        """Centroids from N(0, 1): an arbitrary, fixed division of the patches."""
        nn.init.normal_(self.centroids)

    def read(self, path: str) -> None:
        """Take the centroids out of a file of ``mmssl tokenizer fit``."""
        saved = load_file(path)
        if not isinstance(saved, dict) or 'centroids' not in saved:
            raise ValueError(f'{path} is no file of mmssl tokenizer fit; {self.HOW}')
        found = dict(
            num_tokens=len(saved['centroids']), patch_size=tuple(saved['patch_size']), eps=saved['eps']
        )
        wanted = dict(num_tokens=self.num_tokens, patch_size=self.patch_size, eps=self.eps)
        if found != wanted:
            raise ValueError(
                f'{path} has '
                + ', '.join(f'{key}={value}' for key, value in found.items() if value != wanted[key])
                + ', the config '
                + ', '.join(f'{key}={value}' for key, value in wanted.items() if value != found[key])
                + '; change the config, or fit anew'
            )
        self.centroids.copy_(saved['centroids'])

    def grid_of(self, height: int, width: int) -> tuple[int, int]:
        """(rows, columns) of tokens of an image."""
        return patch_grid(height, width, self.patch_size)

    def normalise(self, patches: Tensor) -> Tensor:
        """(..., p * q * C) pixels in [0, 1] to mean 0 and contrast 1."""
        variance, mean = torch.var_mean(patches, dim=-1, correction=0, keepdim=True)
        return (patches - mean) * (variance + self.eps).rsqrt()

    def scores(self, patches: Tensor) -> Tensor:
        """(T, p * q * C) normalised patches to (T, K): larger is nearer, (|patch|^2 - |patch - centroid|^2) / 2."""
        return torch.addmm(self.centroids.square().sum(dim=1).mul_(-0.5), patches, self.centroids.t())

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] to scores (B, K, rows, columns)."""
        grid = self.grid_of(*pixels.shape[-2:])
        scores = self.scores(self.normalise(patchify(pixels, self.patch_size)).flatten(0, 1))
        return scores.view(len(pixels), *grid, -1).permute(0, 3, 1, 2)

    @torch.no_grad()
    def nearest(self, patches: Tensor) -> Tensor:
        """(T, p * q * C) normalised patches to the numbers (T,) of their centroids, never holding more than 2^26 scores."""
        with torch.autocast(patches.device.type, enabled=False):
            return torch.cat(
                [self.scores(part).argmax(dim=1) for part in patches.split(max(1, 2**26 // self.num_tokens))]
            )

    @torch.no_grad()
    def tokenize(self, pixels: Tensor, rows: Tensor | None = None) -> Tensor:
        """As :meth:`Tokenizer.tokenize`; only the wanted patches are compared."""
        self.check_weights()
        patches = patchify(pixels, self.patch_size).flatten(0, 1)
        patches = patches if rows is None else patches.index_select(0, rows)
        return (
            self.nearest(self.normalise(patches))
            if len(patches)
            else torch.empty(0, dtype=torch.int64, device=pixels.device)
        )


class _Conv(nn.Module):
    """A convolution with the released parameter names ``w`` and ``b``, which keeps the size of the map."""

    def __init__(self, n_in: int, n_out: int, kernel: int):
        super().__init__()
        self.w = nn.Parameter(torch.empty(n_out, n_in, kernel, kernel), requires_grad=False)
        self.b = nn.Parameter(torch.zeros(n_out), requires_grad=False)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.w, std=1 / math.sqrt(self.w[0].numel()))
        nn.init.zeros_(self.b)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.w, self.b, padding=self.w.shape[-1] // 2)


class _Block(nn.Module):
    """Residual bottleneck of four convolutions, each after a ReLU."""

    def __init__(self, n_in: int, n_out: int, gain: float):
        super().__init__()
        self.gain = gain
        sizes = [
            (n_in, n_out // 4, 3),
            (n_out // 4, n_out // 4, 3),
            (n_out // 4, n_out // 4, 3),
            (n_out // 4, n_out, 1),
        ]
        self.id_path = nn.Identity() if n_in == n_out else _Conv(n_in, n_out, 1)
        self.res_path = nn.Sequential(
            OrderedDict(
                item
                for i, size in enumerate(sizes, 1)
                for item in ((f'relu_{i}', nn.ReLU()), (f'conv_{i}', _Conv(*size)))
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(self.id_path(x), self.res_path(x), alpha=self.gain)


@MODELS.register_module()
class DALLEEncoder(Tokenizer):
    """Encoder of DALL-E's discrete VAE (arXiv:2102.12092, appendix A.2): 8192 tokens, one for 8x8 pixels. BEiT's tokenizer.

    mmpretrain's wants its input mapped by a data preprocessor of its own, and the released pickle converted
    elsewhere; here ``encoder.pkl`` is read as it is, without running what is in it. Parameter names as
    released.

    Args:
        checkpoint: the released ``encoder.pkl``, or a state dict with its names; 'random' for random weights.
        num_tokens: size of the vocabulary.
        n_hid: channels of the first group; each of the four has twice as many as the one before.
        n_blk_per_group: blocks in a group.
    """

    HOW = (
        "it is OpenAI's encoder.pkl of DALL-E (github.com/openai/DALL-E); a tokenizer that needs no download: "
        'mmssl tokenizer fit --data DIR --out FILE.pth'
    )

    def __init__(self, checkpoint: str, num_tokens: int = 8192, n_hid: int = 256, n_blk_per_group: int = 2):
        super().__init__(checkpoint, num_tokens)
        gain = 1 / (4 * n_blk_per_group) ** 2
        groups, width = OrderedDict(input=_Conv(3, n_hid, 7)), n_hid
        for group in range(4):
            blocks = OrderedDict()
            for index in range(n_blk_per_group):
                blocks[f'block_{index + 1}'] = _Block(width, n_hid * 2**group, gain)
                width = n_hid * 2**group
            if group < 3:
                blocks['pool'] = nn.MaxPool2d(2)
            groups[f'group_{group + 1}'] = nn.Sequential(blocks)
        groups['output'] = nn.Sequential(OrderedDict(relu=nn.ReLU(), conv=_Conv(width, num_tokens, 1)))
        self.blocks = nn.Sequential(groups)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Random weights as in the released code."""
        for module in self.modules():
            if isinstance(module, _Conv):
                module.reset_parameters()

    def read(self, path: str) -> None:
        """Take the weights out of the released pickle or a state dict."""
        weights = read_dalle(path)
        weights = {
            key.removeprefix('target_generator.').removeprefix('encoder.'): value
            for key, value in weights.items()
        }
        own = self.state_dict()
        wrong = sorted(set(own) ^ set(weights)) + [
            key for key in own if key in weights and own[key].shape != weights[key].shape
        ]
        if wrong:
            raise ValueError(
                f'{path} is not the encoder of DALL-E with {self.num_tokens} tokens: {len(wrong)} tensors are missing, '
                f'unknown or of another shape ({", ".join(wrong[:3])})'
            )
        self.load_state_dict(weights)

    def grid_of(self, height: int, width: int) -> tuple[int, int]:
        """(rows, columns) of tokens of an image."""
        return patch_grid(height, width, (8, 8))

    def hidden(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W), RGB in [0, 1], to what the last convolution sees, (B, C, H / 8, W / 8).

        On a GPU in half precision, as released; elsewhere in the precision of the weights.
        """
        self.grid_of(*pixels.shape[-2:])
        device, dtype = pixels.device.type, self.blocks.input.w.dtype
        with torch.autocast(
            device, dtype=torch.float16 if device == 'cuda' else None, enabled=device == 'cuda'
        ):
            return self.blocks.output.relu(self.blocks[:-1](map_pixels(pixels.to(dtype)))).to(dtype)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W), RGB in [0, 1], to logits (B, K, H / 8, W / 8)."""
        hidden = self.hidden(pixels)
        with torch.autocast(pixels.device.type, enabled=False):
            return self.blocks.output.conv(hidden)

    @torch.no_grad()
    def tokenize(self, pixels: Tensor, rows: Tensor | None = None) -> Tensor:
        """As :meth:`Tokenizer.tokenize`; the logits, most of the memory, are computed for the wanted patches alone."""
        self.check_weights()
        hidden = self.hidden(pixels).permute(0, 2, 3, 1).flatten(0, 2)
        last = self.blocks.output.conv
        with torch.autocast(pixels.device.type, enabled=False):
            return F.linear(
                hidden if rows is None else hidden.index_select(0, rows), last.w.flatten(1), last.b
            ).argmax(dim=1)


def map_pixels(pixels: Tensor) -> Tensor:
    """[0, 1] to [0.1, 0.9], the range that DALL-E's autoencoder was trained on (its equation 1, eps = 0.1)."""
    return 0.8 * pixels + 0.1


def read_dalle(path: str) -> dict[str, Tensor]:
    """State dict of DALL-E's ``encoder.pkl``, which holds a whole module of the package ``dall_e``, or of a file of tensors.

    Classes named in the pickle are replaced by empty ones: nothing in the file is executed, and ``dall_e``
        need not be installed.

    Raises:
        UnsafeCheckpointError: the file names something else than modules and tensors.
    """
    try:
        return dict(strip_module(weights_of(load_file(path), path)))
    except UnsafeCheckpointError:
        reader: Any = types.ModuleType('mmssl_module_reader')
        reader.Unpickler, reader.load = (
            _ModuleReader,
            lambda file, **kwargs: _ModuleReader(file, **kwargs).load(),
        )
        with safe_loading(path), warnings.catch_warnings():
            warnings.simplefilter('ignore')
            module = torch.load(path, map_location='cpu', pickle_module=reader, weights_only=False)
    return {} if not isinstance(module, _Inert) else module.parameters_by_name()


class _Inert:
    """Stands for any module of a pickle and keeps what was in it."""

    dump_patches = False  # older streams carry the source of a class, with which torch compares this one

    def parameters_by_name(self, prefix: str = '') -> dict[str, Tensor]:
        found = {
            prefix + name: value.detach()
            for name, value in vars(self).get('_parameters', {}).items()
            if value is not None
        }
        for name, module in vars(self).get('_modules', {}).items():
            found |= module.parameters_by_name(f'{prefix}{name}.') if isinstance(module, _Inert) else {}
        return found


class _ModuleReader(pickle.Unpickler):
    """Builds tensors and empty modules, nothing else."""

    ALLOWED = {
        ('collections', 'OrderedDict'),
        ('torch._utils', '_rebuild_tensor_v2'),
        ('torch._utils', '_rebuild_parameter'),
        ('torch', 'device'),
        ('builtins', 'set'),
        ('__builtin__', 'set'),
    }

    def find_class(self, module: str, name: str):
        if module.split('.')[0] == 'dall_e' or module.startswith('torch.nn.modules.'):
            return _Inert
        if (module, name) in self.ALLOWED or (
            module == 'torch' and isinstance(getattr(torch, name, None), torch.dtype)
        ):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f'Unsupported global: GLOBAL {module}.{name}')
