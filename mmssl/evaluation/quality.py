"""Quality of features without labels: rank, spread, uniformity."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def rank_me(features: Tensor, eps: float = 1e-7) -> float:
    """RankMe: the effective rank of features, exp of the entropy of their singular values.

    Garrido et al., ICML 2023, arXiv:2210.02885, equations 1 and 2. Features are not centred, as there.

    Args:
        features: (N, D). At most min(N, D) can be the result, so values compare only at equal N.
        eps: Added to the normalised singular values.

    Returns:
        Between 1, all features on one line, and min(N, D), the same spread in all directions; 0 if all
        features are 0.
    """
    values = torch.linalg.svdvals(_checked(features))
    total = values.sum()
    if total == 0:
        return 0.0
    shares = values / total + eps
    return float(torch.exp(-(shares * shares.log()).sum()))


def feature_std(features: Tensor) -> float:
    """Standard deviation of L2-normalised features over the images, mean of the channels.

    Chen, He, CVPR 2021, arXiv:2011.10566, section 4.1: 0 where the features have collapsed to a constant, and
    about 1 / sqrt(D) where they are spread over the sphere.

    Args:
        features: (N, D).
    """
    return float(F.normalize(_checked(features), dim=1).std(dim=0, unbiased=False).mean())


def uniformity(features: Tensor, temperature: float = 2.0) -> float:
    """Log of the mean Gaussian potential of pairs of L2-normalised features; lower is more uniform.

    Wang, Isola, ICML 2020, arXiv:2005.10242, equation of L_uniform in section 4.1.2.

    Args:
        features: (N, D), of two images or more.
        temperature: t of the potential exp(-t * squared distance).

    Returns:
        At most 0, where all features are equal.
    """
    distances = F.normalize(_checked(features), dim=1)
    return float(torch.pdist(distances).square().mul(-temperature).exp().mean().log())


def lidar(views: Tensor, delta: float = 1e-3, eps: float = 1e-7) -> float:
    """LiDAR: the effective rank of the linear discriminant of views of the same image.

    Thilak et al., ICLR 2024, arXiv:2312.04000, section 4: every image is a class, its views are the samples.

    Args:
        views: (N, Q, D), features of Q views of N images.
        delta: Added to the diagonal of the covariance within images.
        eps: Added to the normalised eigenvalues.

    Returns:
        Between 1 and min(N - 1, D); 0 if the views of all images are alike.

    Raises:
        ValueError: There are fewer than two images or views.
    """
    if views.ndim != 3 or min(views.shape[:2]) < 2:
        raise ValueError(f'features of views are {tuple(views.shape)}; LiDAR needs (N >= 2, Q >= 2, D)')
    count, per_image, width = views.shape
    views = _checked(views.flatten(0, 1)).unflatten(0, (count, per_image))
    means = views.mean(dim=1)
    between = means - means.mean(dim=0)
    within = (views - means.unsqueeze(1)).flatten(0, 1)
    covariance_between = between.T @ between / (count - 1)
    covariance_within = within.T @ within / (count * (per_image - 1))
    covariance_within += delta * torch.eye(width, dtype=views.dtype, device=views.device)
    values, vectors = torch.linalg.eigh(covariance_within)
    whitening = vectors * values.rsqrt() @ vectors.T
    spectrum = torch.linalg.eigvalsh(whitening @ covariance_between @ whitening).clamp(min=0)
    total = spectrum.sum()
    if total == 0:
        return 0.0
    shares = spectrum / total + eps
    return float(torch.exp(-(shares * shares.log()).sum()))


def attention_entropy(weights: Tensor) -> float:
    """Entropy of attention over the patches as a share of its maximum, mean of images and heads.

    1 where every patch has the same weight, near 0 where a head looks at a single patch; heads of which all
    end at 0 have collapsed (Zhai et al., ICML 2023, arXiv:2303.06296, section 3).

    Args:
        weights: (B, heads, ...), not negative; they are normalised to sum to 1 over the patches.

    Raises:
        ValueError: There is a single patch.
    """
    weights = weights.detach().double().flatten(2)
    if weights.shape[2] < 2:
        raise ValueError(f'attention over {weights.shape[2]} patch has no entropy; give larger images')
    shares = weights / weights.sum(dim=2, keepdim=True)
    return float(-torch.xlogy(shares, shares).sum(dim=2).mean() / math.log(weights.shape[2]))


def feature_quality(features: Tensor) -> dict[str, float]:
    """RankMe, standard deviation and uniformity of features (N, D)."""
    return dict(rankme=rank_me(features), std=feature_std(features), uniformity=uniformity(features))


def _checked(features: Tensor) -> Tensor:
    """Features in float64.

    Raises:
        ValueError: They are no matrix of two rows or more, or not finite.
    """
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f'features are {tuple(features.shape)}; their quality needs (N >= 2, D)')
    features = features.detach().double()
    if not bool(features.isfinite().all()):
        raise ValueError('features contain NaN or infinity, so that their quality has no value')
    return features
