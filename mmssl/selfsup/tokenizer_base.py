"""Base class of the visual tokenizers for BEiT: which of K tokens a patch of an image is."""

import os

from mmengine.model import BaseModule
from torch import Tensor

from mmssl.config import RANDOM


class Tokenizer(BaseModule):
    """Visual tokenizer: it maps patches to tokens, without gradients, with weights read from a file.

    It takes RGB in [0, 1], so it does not depend on the normalisation of the model's input. It is not trained
    with the model: the weights come from a file or, for smoke tests, from the seed of the run
    (``checkpoint='random'``).

    Args:
        checkpoint: File of the weights; 'random' draws them from the run's seed.
        num_tokens: K.

    Attributes:
        HOW: How to get a missing file, for the error message of a subclass.
    """

    HOW = ''

    def __init__(self, checkpoint: str, num_tokens: int):
        super().__init__()
        if not isinstance(checkpoint, (str, os.PathLike)) or not str(checkpoint):
            raise ValueError(
                f'{type(self).__name__}: checkpoint={checkpoint!r} must name a file, or be {RANDOM!r}; '
                f'{self.HOW}'
            )
        if num_tokens < 2:
            raise ValueError(f'{type(self).__name__}: num_tokens={num_tokens} must be at least 2')
        self.checkpoint = str(checkpoint)
        self.num_tokens = num_tokens
        self._has_weights = self.checkpoint == RANDOM

    def init_weights(self) -> None:
        """Read the file, or draw the weights.

        Raises:
            FileNotFoundError: There is no such file; the message says how to get it.
            ValueError: It is not a file of this tokenizer, or has other sizes.
        """
        if self.checkpoint == RANDOM:
            self.reset_parameters()
            return
        path = os.path.expanduser(self.checkpoint)
        if not os.path.isfile(path):
            raise FileNotFoundError(f'no tokenizer {self.checkpoint}; {self.HOW}')
        self.read(path)
        self._has_weights = True

    def check_weights(self) -> None:
        """Read the file unless weights are loaded already; errors as in :meth:`init_weights`."""
        if not self._has_weights:
            self.init_weights()

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._has_weights |= any(key.startswith(prefix) for key in state_dict)

    def train(self, mode: bool = True):
        """Stay in evaluation mode, whatever ``mode`` is."""
        return super().train(False)

    def reset_parameters(self) -> None:
        """Draw the weights from torch's generator."""
        raise NotImplementedError

    def read(self, path: str) -> None:
        """Load the weights from a file."""
        raise NotImplementedError

    def grid_of(self, height: int, width: int) -> tuple[int, int]:
        """Return (rows, columns) of the tokens of an image."""
        raise NotImplementedError

    def tokenize(self, pixels: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return the tokens of patches.

        Args:
            pixels: (B, 3, H, W), RGB in [0, 1].
            rows: (T,) indices of the requested patches among all B * N; all of them when None.

        Returns:
            (T,), int64, in [0, K).
        """
        raise NotImplementedError
