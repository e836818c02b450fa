"""Noise-contrastive estimation of unnormalised models (Gutmann and Hyvarinen, AISTATS 2010)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmssl.ops.precision import no_autocast


class NCELoss(nn.Module):
    """Logistic regression that tells data from noise of a known distribution (equations 3 to 5).

    The classifier's logit is ln p_model(u) - ln p_noise(u) - ln(k) for k noise samples per data sample; at
    its optimum the model is the density of the data. It need not integrate to 1: its log normalising constant
    can be learned with it.

    Args:
        learn_normalizer: Learn a constant c that is added to the model's log density, ``log_normalizer``.
    """

    def __init__(self, learn_normalizer: bool = False):
        super().__init__()
        self.log_normalizer = nn.Parameter(torch.zeros(())) if learn_normalizer else None

    def forward(
        self, data_log_model: Tensor, data_log_noise: Tensor, noise_log_model: Tensor, noise_log_noise: Tensor
    ) -> Tensor:
        """Compute the negative of the objective J.

        Args:
            data_log_model: (B,) log density of the model at the data, up to its normalising constant.
            data_log_noise: (B,) log density of the noise at the data.
            noise_log_model: (B, k) log density of the model at noise samples.
            noise_log_noise: (B, k) log density of the noise at noise samples.

        Returns:
            scalar: mean over B of -[ln h(x) + sum over k of ln(1 - h(y))], h the probability of being data.
        """
        if noise_log_model.ndim != 2 or noise_log_model.shape[:1] != data_log_model.shape:
            raise ValueError(
                f'scores have shapes {tuple(data_log_model.shape)} for data and '
                f'{tuple(noise_log_model.shape)} for noise; give (B,) and (B, k)'
            )
        with no_autocast(data_log_model):
            offset = self.log_normalizer if self.log_normalizer is not None else 0.0
            log_k = math.log(noise_log_model.shape[1])
            data_logits = data_log_model + offset - data_log_noise - log_k
            noise_logits = noise_log_model + offset - noise_log_noise - log_k
            return -(F.logsigmoid(data_logits) + F.logsigmoid(-noise_logits).sum(dim=1)).mean()
