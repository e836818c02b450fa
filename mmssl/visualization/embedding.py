"""Features in the plane by t-SNE, UMAP or principal components, colored by class."""

import textwrap
from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# method -> (its name in figures, module that it needs, package to install)
METHODS = {
    'tsne': ('t-SNE', 'sklearn', 'scikit-learn'),
    'umap': ('UMAP', 'umap', 'umap-learn'),
    'pca': ('principal components', 'torch', 'torch'),
}
MARKERS = 'os^Dv*'
COLORS = 10  # distinguishable colors; further classes use another marker


def check_method(method: str) -> None:
    """Check that a method exists and that its packages are installed, before features are computed.

    Raises:
        ValueError: The method does not exist.
        ImportError: A package is not installed; the message has the command that installs it.
    """
    if method not in METHODS:
        raise ValueError(f'method {method!r} is unknown; one of {", ".join(METHODS)}')
    title, module, package = METHODS[method]
    for needed, name in ((module, package), ('matplotlib', 'matplotlib')):
        if find_spec(needed) is None:
            raise ImportError(f'a figure by {title} needs {name}: pip install {name}')


def embed(features: Tensor, method: str = 'tsne', seed: int = 0, perplexity: float = 30.0) -> np.ndarray:
    """Embed normalized features in the plane, so that their angles count, as in k-NN.

    Args:
        features: (N, D).
        method: 'tsne' (van der Maaten and Hinton, 2008), 'umap' (McInnes et al., arXiv:1802.03426) or 'pca'.
        seed: Seed of the random draws.
        perplexity: Effective number of neighbors of t-SNE, at most a third of the images. UMAP uses half as
            many neighbors, 15 by default as its authors.

    Returns:
        (N, 2) float32.

    Raises:
        ValueError: There are fewer than four images, or features that are not finite.
    """
    check_method(method)
    if len(features) < 4:
        raise ValueError(f'{len(features)} images are too few for a figure; give at least 4')
    if not bool(torch.isfinite(features).all()):
        raise ValueError('the features are not finite; is it a checkpoint of a run that diverged?')
    points = F.normalize(features.double(), dim=1)
    if method == 'pca':
        return _principal_components(points)
    points = points.float().numpy()
    if method == 'tsne':
        from sklearn.manifold import TSNE

        perplexity = min(perplexity, (len(points) - 1) / 3)
        init = 'pca' if points.shape[1] > 1 else 'random'
        return TSNE(perplexity=perplexity, init=init, random_state=seed).fit_transform(points)
    from umap import UMAP

    neighbors = max(2, min(round(perplexity / 2), len(points) - 1))
    umap = UMAP(n_neighbors=neighbors, random_state=seed, n_jobs=1)
    return np.asarray(umap.fit_transform(points), np.float32)


def _principal_components(points: Tensor) -> np.ndarray:
    left, values, _ = torch.linalg.svd(points - points.mean(dim=0), full_matrices=False)
    components = left[:, :2] * values[:2]
    # the sign of a component is arbitrary: its largest entry is made positive
    largest = components.gather(0, components.abs().argmax(dim=0, keepdim=True))
    components = components * torch.where(largest < 0, -1.0, 1.0)
    return F.pad(components, (0, 2 - components.shape[1])).float().numpy()


def scatter(points: np.ndarray, labels: Sequence[int], classes: Sequence[str], title: str = ''):
    """Draw points in the colors of their classes, with a legend if at most 60 classes occur.

    Args:
        points: (N, 2).
        labels: N class indices.
        classes: Names of the classes.
        title: Title of the figure; long ones are wrapped.

    Returns:
        A ``matplotlib.figure.Figure``; ``.savefig(path)`` writes it.
    """
    import matplotlib
    from matplotlib.figure import Figure

    label_array = np.asarray(labels)
    present = np.unique(label_array)
    figure = Figure(figsize=(9, 7), dpi=150, layout='constrained')
    axes = figure.add_subplot()
    with_legend = len(present) <= COLORS * len(MARKERS)
    if with_legend:
        tab10 = matplotlib.colormaps['tab10'].colors
        styles = [(MARKERS[order // COLORS], tab10[order % COLORS]) for order in range(len(present))]
    else:
        styles = [
            ('o', color) for color in matplotlib.colormaps['hsv'](np.linspace(0, 1, len(present), False))
        ]
    size = float(np.clip(12000 / len(points), 4, 40))
    for label, (marker, color) in zip(present, styles, strict=True):
        x, y = points[label_array == label].T
        axes.scatter(
            x, y, s=size, marker=marker, color=[color], alpha=0.8, linewidths=0, label=classes[label]
        )
    axes.set(xticks=[], yticks=[])
    axes.set_title(textwrap.fill(title, 90, break_on_hyphens=False), fontsize=10)
    axes.set_aspect('equal', adjustable='datalim')
    if with_legend:
        columns = -(-len(present) // 30)
        marker_scale = max(1.0, (30 / size) ** 0.5)
        figure.legend(loc='outside right upper', fontsize=8, ncols=columns, markerscale=marker_scale)
    return figure
