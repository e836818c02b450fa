"""Contrastive losses: one of several candidates is the right one."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmssl.layers.distributed import gather_with_gradient, world
from mmssl.ops.precision import no_autocast


def info_nce(queries: Tensor, keys: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """InfoNCE of queries, their keys and shared negatives (arXiv:1807.03748; MoCo, equation 1).

    -log(exp(q.k / T) / (exp(q.k / T) + sum_j exp(q.n_j / T))), averaged over the queries.

    Args:
        queries: (B, D) unit vectors.
        keys: (B, D) unit vectors, row i the positive of query i.
        negatives: (D, K) unit vectors, one per column.
        temperature: T.

    Returns:
        scalar.
    """
    with no_autocast(queries):
        scaled = queries / temperature
        positive = (scaled * keys).sum(dim=1)
        negative = (scaled @ negatives).logsumexp(dim=1)
        return (torch.logaddexp(positive, negative) - positive).mean()


class InfoNCELoss(nn.Module):
    """InfoNCE against given negatives, or against the other keys of the batch; see :func:`info_nce`.

    Args:
        temperature: Divides the cosine similarities.
        gather: Without given negatives: contrast with the keys of all processes. The keys keep their
            gradient.
    """

    def __init__(self, temperature: float = 0.1, gather: bool = True):
        super().__init__()
        self.temperature = check_temperature(temperature)
        self.gather = gather

    def forward(self, queries: Tensor, keys: Tensor, negatives: Tensor | None = None) -> Tensor:
        """Compute the mean loss over the queries.

        Args:
            queries: (B, D), of any length; they are normalised here.
            keys: (B, D), row i the positive of query i.
            negatives: (K, D); the keys of the other rows when None.

        Returns:
            scalar.
        """
        with no_autocast(queries):
            queries, keys = unit(queries), unit(keys)
            if negatives is not None:
                return info_nce(queries, keys, unit(negatives).T, self.temperature)
            first = len(queries) * world()[0] if self.gather else 0
            candidates = gather_with_gradient(keys) if self.gather else keys
            labels = torch.arange(first, first + len(queries), device=queries.device)
            return F.cross_entropy(queries @ candidates.T / self.temperature, labels)


class NTXentLoss(nn.Module):
    """Normalised temperature-scaled cross entropy over two views (SimCLR, arXiv:2002.05709, equation 1).

    Each of the 2N views of N images has one positive, the other view of its image, and 2N - 2 negatives. With
    several processes N counts the images of all of them, and gradients reach the views of every process.

    Args:
        temperature: Divides the cosine similarities.
        gather: Contrast with the views of all processes; every process must have the same batch size.
    """

    def __init__(self, temperature: float = 0.1, gather: bool = True):
        super().__init__()
        self.temperature = check_temperature(temperature)
        self.gather = gather

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Compute the mean loss over the views of this process.

        Args:
            first: (B, D) projections of one view, of any length; they are normalised here.
            second: (B, D) projections of the other view.

        Returns:
            scalar. Its mean over the processes is the loss of one process with all images.
        """
        with no_autocast(first):
            views = torch.stack(
                [unit(first), unit(second)], dim=1
            )  # (B, 2, D): views of an image are neighbours
            candidates = (gather_with_gradient(views) if self.gather else views).flatten(0, 1)
            anchors = views.flatten(0, 1)
            offset = len(anchors) * world()[0] if self.gather else 0
            own = torch.arange(offset, offset + len(anchors), device=anchors.device)
            logits = anchors @ candidates.T / self.temperature
            logits = logits.scatter(1, own[:, None], float('-inf'))  # a view is not a candidate for itself
            return F.cross_entropy(logits, own ^ 1)  # indices 2i and 2i + 1 are positives of each other


def unit(vectors: Tensor) -> Tensor:
    """Normalise (..., D) vectors to length 1, in float32 or wider."""
    return F.normalize(vectors.to(torch.promote_types(vectors.dtype, torch.float32)), dim=-1)


def check_temperature(temperature: float) -> float:
    """Return a temperature that is above 0; raise ValueError otherwise."""
    if not temperature > 0:
        raise ValueError(f'temperature={temperature} must be above 0; 0.05 to 1 is usual')
    return temperature
