"""Features of images in the plane: t-SNE, UMAP or principal components, coloured by class."""

import textwrap
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# method -> (what the picture calls it, module, what to install)
METHODS = {
    'tsne': ('t-SNE', 'sklearn', 'scikit-learn'),
    'umap': ('UMAP', 'umap', 'umap-learn'),
    'pca': ('principal components', 'torch', 'torch'),
}
MARKERS = 'os^Dv*'
SHADES = 10  # colours that are told apart without effort; further classes get another marker


def check_method(method: str) -> None:
    """Refuse a method before its features are computed.

    Raises:
        ValueError: no such method.
        ImportError: what it needs is not installed; the message has the command that installs it.
    """
    from importlib.util import find_spec

    if method not in METHODS:
        raise ValueError(f'method {method!r} is unknown; one of {", ".join(METHODS)}')
    title, module, package = METHODS[method]
    for needed, name in ((module, package), ('matplotlib', 'matplotlib')):
        if find_spec(needed) is None:
            raise ImportError(f'a picture by {title} needs {name}: pip install {name}')


def embed(features: Tensor, method: str = 'tsne', seed: int = 0, perplexity: float = 30.0) -> np.ndarray:
    """Places of features in the plane. Lengths are taken off first: what counts is the angle, as in k-NN.

    Args:
        features: (N, D).
        method: 'tsne' (van der Maaten and Hinton, 2008), 'umap' (McInnes et al., arXiv:1802.03426) or 'pca'.
        seed: of the draws.
        perplexity: neighbours that t-SNE looks at, in effect; fewer where there are less than three times as
            many images. UMAP takes half as many, 15 by default as its authors.

    Returns:
        (N, 2) float32.

    Raises:
        ValueError: fewer than four images, or features that are not finite.
    """
    check_method(method)
    if len(features) < 4:
        raise ValueError(f'{len(features)} images are too few for a picture; give at least 4')
    if not bool(torch.isfinite(features).all()):
        raise ValueError('the features are not finite; is it a checkpoint of a run that diverged?')
    points = F.normalize(features.double(), dim=1)
    if method == 'pca':
        centred = points - points.mean(dim=0)
        left, values, _ = torch.linalg.svd(centred, full_matrices=False)
        placed = left[:, :2] * values[:2]
        # an axis has no direction of its own: the larger half of it is made positive
        placed = placed * torch.where(
            placed.gather(0, placed.abs().argmax(dim=0, keepdim=True)) < 0, -1.0, 1.0
        )
        return F.pad(placed, (0, 2 - placed.shape[1])).float().numpy()
    points = points.float().numpy()
    if method == 'tsne':
        from sklearn.manifold import TSNE

        perplexity = min(perplexity, (len(points) - 1) / 3)
        return TSNE(
            perplexity=perplexity, init='pca' if points.shape[1] > 1 else 'random', random_state=seed
        ).fit_transform(points)
    from umap import UMAP

    neighbours = max(2, min(round(perplexity / 2), len(points) - 1))
    return np.asarray(
        UMAP(n_neighbors=neighbours, random_state=seed, n_jobs=1).fit_transform(points), np.float32
    )


def scatter(points: np.ndarray, labels: Sequence[int], classes: Sequence[str], title: str = ''):
    """Draw points in the colours of their classes, with a legend of the classes that occur (where they are 60 or fewer).

    Args:
        points: (N, 2).
        labels: N numbers of classes.
        classes: names.
        title: above the picture, in as many lines as it needs.

    Returns:
        a ``matplotlib.figure.Figure``; ``.savefig(path)`` writes it.
    """
    import matplotlib
    from matplotlib.figure import Figure

    numbers = np.asarray(labels)
    found = np.unique(numbers)
    figure = Figure(figsize=(9, 7), dpi=150, layout='constrained')
    axes = figure.add_subplot()
    with_legend = len(found) <= SHADES * len(MARKERS)
    colours = (
        matplotlib.colormaps['tab10'].colors
        if with_legend
        else matplotlib.colormaps['hsv'](np.linspace(0, 1, len(found), False))
    )
    size = float(np.clip(12000 / len(points), 4, 40))
    for order, label in enumerate(found):
        members = points[numbers == label]
        marker, colour = (
            (MARKERS[order // SHADES], colours[order % SHADES]) if with_legend else ('o', colours[order])
        )
        axes.scatter(
            members[:, 0],
            members[:, 1],
            s=size,
            marker=marker,
            color=[colour],
            alpha=0.8,
            linewidths=0,
            label=classes[label],
        )
    axes.set(xticks=[], yticks=[])
    axes.set_title(textwrap.fill(title, 90, break_on_hyphens=False), fontsize=10)
    axes.set_aspect('equal', adjustable='datalim')
    if with_legend:
        figure.legend(
            loc='outside right upper',
            fontsize=8,
            ncols=-(-len(found) // 30),
            markerscale=max(1.0, (30 / size) ** 0.5),
        )
    return figure
