"""Deep InfoMax (Hjelm et al., ICLR 2019, arXiv:1808.06670).

An encoder makes a vector of an image. It is trained so that the vector has much mutual information with every
place of a feature map of the same image (local objective), with the whole map (global objective), and so that
the vectors of all images together look like noise of a given distribution (prior matching). Mutual
information is estimated from scores of pairs: a feature and a vector of the same image, or of two images.
"""

import math

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmssl.layers.distributed import gather_with_gradient, world
from mmssl.registry import MODELS, build
from mmssl.selfsup.base import SelfSupervisor

LOG_2 = math.log(2)


def _softplus(v: Tensor) -> Tensor:
    """log(1 + exp(v)); torch's softplus is the identity above 20."""
    return -F.logsigmoid(-v)


# f-GAN (arXiv:1606.00709), tables 2 and 6, T being the output activation of a score v and f* the conjugate:
# T(v), whose mean is taken over pairs of one image, and f*(T(v)), over pairs of two. Both are increasing near
# the optimum; their difference bounds the divergence.
DIVERGENCES = {
    'GAN': (F.logsigmoid, _softplus),
    'JSD': (lambda v: LOG_2 + F.logsigmoid(v), lambda v: _softplus(v) - LOG_2),
    'KL': (lambda v: v, lambda v: (v - 1).exp()),
    'RKL': (lambda v: -(-v).exp(), lambda v: v - 1),
    'X2': (lambda v: v, lambda v: v.square() / 4 + v),
    'H2': (lambda v: -torch.expm1(-v), torch.expm1),
    'W1': (lambda v: v, lambda v: v),  # no f-divergence: the scores must be Lipschitz
}


def pair_scores(l: Tensor, m: Tensor, gather: bool = False) -> tuple[Tensor, Tensor, Tensor]:  # noqa: E741
    """Dot products of every local with every vector.

    Args:
        l: (N, units, locals).
        m: (N, units, multis).
        gather: take the locals of all processes; K is then N times the world size, and otherwise N.

    Returns:
        scores (N, multis, K, locals), float32 or wider, of vector n and local k; own (N, 1, K, 1), True where
        both are of one image; positives (multis, locals, N), the scores of those.

    Raises:
        ValueError: shapes that do not fit, or one image alone, which has no negatives.
    """
    if l.ndim != 3 or m.ndim != 3 or l.shape[:2] != m.shape[:2]:
        raise ValueError(
            f'l has shape {tuple(l.shape)} and m {tuple(m.shape)}; give (N, units, locals) and (N, units, multis)'
        )
    number, units, multis = m.shape
    places = l.transpose(1, 2)
    if gather:
        places = gather_with_gradient(places)
    if len(places) < 2:
        raise ValueError('a batch of 1 image has no negatives; mutual information needs at least 2 images')
    first = world()[0] * number if gather else 0
    with torch.autocast(m.device.type, enabled=False):
        vectors, places = (
            x.reshape(-1, units).to(torch.promote_types(x.dtype, torch.float32))
            for x in (m.transpose(1, 2), places)
        )
        scores = F.linear(vectors, places).view(number, multis, -1, l.shape[2])
    images = torch.arange(scores.shape[2], device=m.device)
    own = images == images[first : first + number, None]
    return scores, own[:, None, :, None], scores[:, :, first : first + number].diagonal(dim1=0, dim2=2)


def fenchel_dual_loss(l: Tensor, m: Tensor, measure: str = 'JSD', gather: bool = False) -> Tensor:  # noqa: E741
    """Minus the lower bound of an f-divergence between pairs of one image and pairs of two (section 3.1, equation 4, for 'JSD').

    Args:
        l: (N, units, locals).
        m: (N, units, multis).
        measure: 'JSD', 'GAN', 'KL', 'RKL', 'X2', 'H2' or 'W1'.
        gather: negatives from all processes too.

    Returns:
        scalar: the mean over pairs of two images less the mean over pairs of one.
    """
    if measure not in DIVERGENCES:
        cure = 'call donsker_varadhan_loss' if measure == 'DV' else f'one of {", ".join(DIVERGENCES)}'
        raise ValueError(f'measure={measure!r} is no divergence of fenchel_dual_loss; {cure}')
    positive, negative = DIVERGENCES[measure]
    scores, own, positives = pair_scores(l, m, gather)
    # own scores leave before the exponential, where they may be infinite
    of_pairs = negative(scores.masked_fill(own, 0)).mean(dim=(1, 3), keepdim=True).masked_fill(own, 0)
    pairs = len(m) * (scores.shape[2] - 1)
    return of_pairs.sum() / pairs - positive(positives).mean()


def infonce_loss(l: Tensor, m: Tensor, gather: bool = False) -> Tensor:  # noqa: E741
    """Cross entropy of finding an own local among the locals of all other images (section 3.1, equation 5).

    The released code gives the own image's other locals the score -10 in place of leaving them out.

    Args:
        l: (N, units, locals).
        m: (N, units, multis).
        gather: negatives from all processes too.

    Returns:
        scalar: the mean over all pairs (local, vector) of one image.
    """
    scores, own, positives = pair_scores(l, m, gather)
    negatives = scores.masked_fill(own, -math.inf).logsumexp(dim=(2, 3))
    return _softplus(negatives.T.unsqueeze(1) - positives).mean()


def donsker_varadhan_loss(l: Tensor, m: Tensor, gather: bool = False) -> Tensor:  # noqa: E741
    """Minus the Donsker-Varadhan bound of the Kullback-Leibler divergence (section 3.1, equation 2).

    The released code counts the own pairs among the negatives, with the score -10.

    Args:
        l: (N, units, locals).
        m: (N, units, multis).
        gather: negatives from all processes too.

    Returns:
        scalar: the logarithm of the mean of exp(score) over pairs of two images less the mean score over
            pairs of one.
    """
    scores, own, positives = pair_scores(l, m, gather)
    negatives = scores.masked_fill(own, -math.inf).logsumexp(dim=(0, 1, 2, 3))
    count = positives.numel() * (scores.shape[2] - 1)
    if gather:
        negatives = gather_with_gradient(negatives.reshape(1))
        count, negatives = count * len(negatives), negatives.logsumexp(dim=0)
    return negatives - math.log(count) - positives.mean()


def _estimator(name: str):
    if name == 'InfoNCE':
        return infonce_loss
    if name == 'DV':
        return donsker_varadhan_loss
    if name not in DIVERGENCES:
        raise ValueError(
            f"estimator={name!r} is unknown; one of 'InfoNCE', 'DV', {', '.join(map(repr, DIVERGENCES))}"
        )
    return lambda l, m, gather: fenchel_dual_loss(l, m, name, gather)  # noqa: E741


class _Drawn(BaseModule):
    """A module whose layers torch initialises."""

    def init_weights(self) -> None:
        """Draw the initial weights anew."""
        for module in self.modules():
            if module is not self and hasattr(module, 'reset_parameters'):
                module.reset_parameters()
        super().init_weights()


@MODELS.register_module()
class InfoMaxEncoder(_Drawn):
    """The convolutional encoder for images of the size of CIFAR's (appendix A.1): DCGAN's discriminator with batch norm and ReLU.

    4x4 convolutions of stride 2, then a dense layer. The output layer of the encoder is the neck of
    :class:`DeepInfoMax`.

    Args:
        img_size: side of the images in pixels, a multiple of 2 ** len(channels).
        channels: of the convolutions.
        hidden: units of the dense layer.
        in_channels: of the images.
        out_indices: what ``forward`` returns, in this order: 0, 1, ... the maps of the convolutions,
            ``len(channels)`` the dense layer; everything when None.
        frozen_stages: keep the first so many of these parts as they are, in evaluation mode; -1 freezes
            nothing.
    """

    def __init__(
        self,
        img_size: int = 32,
        channels: tuple[int, ...] = (64, 128, 256),
        hidden: int = 1024,
        in_channels: int = 3,
        out_indices: tuple[int, ...] | None = None,
        frozen_stages: int = -1,
        init_cfg: dict | list | None = None,
    ):
        super().__init__(init_cfg)
        step = 2 ** len(channels)
        if img_size < step or img_size % step:
            raise ValueError(
                f'img_size={img_size} does not shrink by half {len(channels)} times; give a multiple of {step}'
            )
        self.out_indices = tuple(range(len(channels) + 1)) if out_indices is None else tuple(out_indices)
        if not self.out_indices or not all(0 <= index <= len(channels) for index in self.out_indices):
            raise ValueError(f'out_indices={out_indices!r}: give some of 0 to {len(channels)}')
        self.img_size, self.frozen_stages = img_size, frozen_stages
        widths = (in_channels, *channels)
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, after, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(inplace=True),
            )
            for before, after in zip(widths, channels, strict=False)
        )
        self.stages.append(
            nn.Sequential(
                nn.Flatten(),
                nn.Linear(channels[-1] * (img_size // step) ** 2, hidden, bias=False),
                nn.BatchNorm1d(hidden),
                nn.ReLU(inplace=True),
            )
        )
        self._freeze()

    def _freeze(self) -> None:
        for stage in self.stages[: max(self.frozen_stages, 0)]:
            stage.eval().requires_grad_(False)

    def train(self, mode: bool = True):
        """As ``Module.train``; frozen stages stay in evaluation mode."""
        super().train(mode)
        self._freeze()
        return self

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) to maps (B, C, h, w) and the vector (B, hidden), those of ``out_indices``."""
        if x.shape[-2:] != (self.img_size, self.img_size):
            raise ValueError(
                f'images are {x.shape[-2]}x{x.shape[-1]} and the dense layer of the encoder was made for {self.img_size}x'
                f'{self.img_size}; set img_size, or resize them'
            )
        outs = []
        for stage in self.stages:
            x = stage(x)
            outs.append(x)
        return tuple(outs[index] for index in self.out_indices)


@MODELS.register_module()
class InfoMaxNet(_Drawn):
    """Embeds features where the dot product is the score: the encode-and-dot-product architecture (appendix A.1).

    Two dense layers with batch norm and ReLU between them, and a linear shortcut past both that begins as a
    noisy copy of the input; on a map these are 1x1 convolutions.

    Args:
        in_channels: of the features.
        units: of the embedding.
        layer_norm: normalise the embedding, as the local objective does.
    """

    def __init__(
        self,
        in_channels: int,
        units: int = 2048,
        layer_norm: bool = True,
        init_cfg: dict | list | None = None,
    ):
        super().__init__(init_cfg)
        self.hidden = nn.Linear(in_channels, units, bias=False)
        self.norm = nn.BatchNorm1d(units)
        self.out = nn.Linear(units, units)
        self.shortcut = nn.Linear(in_channels, units, bias=False)
        self.layer_norm = nn.LayerNorm(units) if layer_norm else nn.Identity()
        self._copy_input()

    @torch.no_grad()
    def _copy_input(self) -> None:
        units, in_channels = self.shortcut.weight.shape
        if units >= in_channels:
            self.shortcut.weight.uniform_(-0.01, 0.01).fill_diagonal_(1)

    def init_weights(self) -> None:
        """Draw the initial weights anew."""
        super().init_weights()
        self._copy_input()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to (B, units, h * w), or (B, C) to (B, units, 1)."""
        rows = x.flatten(2).transpose(1, 2) if x.ndim > 2 else x[:, None]
        flat = rows.reshape(-1, rows.shape[-1])
        out = self.out(F.relu(self.norm(self.hidden(flat)), inplace=True)) + self.shortcut(flat)
        return self.layer_norm(out).view(*rows.shape[:2], -1).transpose(1, 2)


@MODELS.register_module()
class PriorDiscriminator(_Drawn):
    """Tells vectors of images from samples of the prior (section 3.3; layers as in appendix A.1).

    Args:
        in_channels: of the vectors.
        hidden: units of the hidden layers.
    """

    def __init__(
        self,
        in_channels: int = 64,
        hidden: tuple[int, ...] = (1000, 200),
        init_cfg: dict | list | None = None,
    ):
        super().__init__(init_cfg)
        widths = (in_channels, *hidden, 1)
        self.layers = nn.ModuleList(
            nn.Linear(before, after) for before, after in zip(widths, widths[1:], strict=False)
        )

    def forward(self, x: Tensor, frozen: bool = False) -> Tensor:
        """(B, C) to scores (B, 1), high for the prior; with ``frozen`` the gradient goes to the input alone."""
        for index, layer in enumerate(self.layers):
            weight, bias = (
                (layer.weight.detach(), layer.bias.detach()) if frozen else (layer.weight, layer.bias)
            )
            x = F.linear(F.relu(x) if index else x, weight, bias)
        return x


class MutualInformation(BaseModule):
    """Minus the estimated mutual information of features and vectors.

    Args:
        feature_net, vector_net: embeddings of both, :class:`InfoMaxNet`.
        estimator: 'InfoNCE', 'DV', or a measure of :func:`fenchel_dual_loss`.
        gather: negatives from all processes too.
    """

    def __init__(self, feature_net: nn.Module, vector_net: nn.Module, estimator: str, gather: bool):
        super().__init__()
        self.feature_net, self.vector_net = feature_net, vector_net
        self.estimator, self.gather = estimator, gather

    def forward(self, features: Tensor, vectors: Tensor) -> Tensor:
        """(B, C, h, w) or (B, C), and (B, D), to a scalar."""
        return _estimator(self.estimator)(
            self.feature_net(features), self.vector_net(vectors), gather=self.gather
        )


@MODELS.register_module()
class DeepInfoMax(SelfSupervisor):
    """Deep InfoMax: ``DeepInfoMax(backbone=mmssl.InfoMaxEncoder or a ResNet, neck=mmssl.MLP)``; the loss is equation 8 of the paper.

    DIM(G) of the paper is alpha=1, beta=0, gamma=1; DIM(L) alpha=0, beta=1, gamma=0.1.

    Args:
        backbone: returns a tuple of features; what comes last goes to the neck.
        neck: mmssl.MLP, the last layers of the encoder, up to the vector.
        alpha, beta, gamma: weights of the global, the local and the prior term. A part of weight 0 is not
            there.
        estimator: of mutual information: 'JSD', 'InfoNCE', 'DV', or another measure of
            :func:`fenchel_dual_loss`.
        local_index, local_channels: which output of the backbone is the map of the local objective, and its
            channels.
        global_index, global_channels: the same for the global objective, which sees the flattened map:
            channels times height times width.
        units: of the embeddings in which features and vectors are compared.
        prior: of :class:`PriorDiscriminator`. It learns from its own term, unweighted; gamma weights what the
            encoder learns from it.
        prior_loss: of the encoder: 'non-saturating', -log D, as in the released code, or 'minimax', log(1 -
            D), as in equation 7.
        gather: take negatives from all processes; the loss is then that of one process with the joined batch.
        others: of mmpretrain's BaseSelfSupervisor (``data_preprocessor``, ``init_cfg``).
    """

    def __init__(
        self,
        backbone: dict,
        neck: dict,
        alpha: float = 0.0,
        beta: float = 1.0,
        gamma: float = 0.1,
        estimator: str = 'JSD',
        local_index: int = 1,
        local_channels: int = 128,
        global_index: int = 2,
        global_channels: int = 4096,
        units: int = 2048,
        prior: dict | None = None,
        prior_loss: str = 'non-saturating',
        gather: bool = False,
        **kwargs,
    ):
        super().__init__(backbone, neck, **kwargs)
        if min(alpha, beta, gamma) < 0 or not alpha + beta:
            raise ValueError(
                f'alpha={alpha}, beta={beta}, gamma={gamma}: none may be negative, and alpha or beta must be above 0'
            )
        if prior_loss not in ('non-saturating', 'minimax'):
            raise ValueError(f"prior_loss={prior_loss!r} is not one of 'non-saturating', 'minimax'")
        _estimator(estimator)
        self.alpha, self.beta, self.gamma, self.prior_loss = alpha, beta, gamma, prior_loss
        self.local_index, self.global_index = local_index, global_index
        width = self.neck.dims[-1]

        def objective(channels: int, layer_norm: bool) -> MutualInformation:
            return MutualInformation(
                InfoMaxNet(channels, units, layer_norm),
                InfoMaxNet(width, units, layer_norm),
                estimator,
                gather,
            )

        self.local_mi = objective(local_channels, True) if beta else None
        self.global_mi = objective(global_channels, False) if alpha else None
        self.prior = (
            build({'type': 'mmssl.PriorDiscriminator', 'in_channels': width, **(prior or {})}, MODELS)
            if gamma
            else None
        )

    def extract_feat(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) to the output of the plain backbone."""
        return self.backbone(inputs)

    def match_prior(self, vectors: Tensor, prior: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Prior matching against uniform noise (section 3.3, equation 7); vectors are brought to (0, 1) by a sigmoid.

        Args:
            vectors: (B, D).
            prior: (B, D) in [0, 1), the draw.

        Returns:
            two scalars: what the discriminator minimises, whose gradient goes to the discriminator alone, and
                what the encoder minimises,
            whose gradient goes to the encoder alone.
        """
        assert self.prior is not None
        wide = torch.promote_types(vectors.dtype, torch.float32)
        vectors = vectors.to(wide).sigmoid()
        prior = torch.rand_like(vectors) if prior is None else prior.to(vectors)
        real, fake = (
            self.prior(torch.cat([prior, vectors.detach()])).to(wide).split([len(prior), len(vectors)])
        )
        score = self.prior(vectors, frozen=True).to(wide)
        encoder = (
            _softplus(-score).mean() if self.prior_loss == 'non-saturating' else F.logsigmoid(-score).mean()
        )
        return _softplus(-real).mean() + _softplus(fake).mean(), encoder

    def loss(
        self, inputs: Tensor | list[Tensor], data_samples: list | None = None, prior: Tensor | None = None
    ) -> dict[str, Tensor]:
        """One training step's loss.

        Args:
            inputs: (B, 3, H, W), normalised, or a list with that one view.
            data_samples: ignored.
            prior: (B, D) in [0, 1), the draw of the prior.

        Returns:
            ``dict(loss=scalar)``.
        """
        (image,) = self.views([inputs] if isinstance(inputs, Tensor) else inputs, 1)
        features = self.backbone(image)
        vectors = self.neck(features[-1])
        loss = 0.0
        if self.local_mi is not None:
            loss = loss + self.beta * self.local_mi(features[self.local_index], vectors)
        if self.global_mi is not None:
            loss = loss + self.alpha * self.global_mi(features[self.global_index].flatten(1), vectors)
        if self.prior is not None:
            discriminator, encoder = self.match_prior(vectors, prior)
            loss = loss + discriminator + self.gamma * encoder
        return dict(loss=loss)
