"""Drawing of confusion matrices."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

MAX_CLASSES_WITH_VALUES = 30


def draw_confusion(matrix: np.ndarray, classes: Sequence[str], path: str | Path) -> None:
    """Draw the fraction of every class's pixels that is predicted as each class.

    Args:
        matrix: (C, C) counts; rows are labels, columns predictions.
        classes: C names.
        path: PNG file to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    matrix = np.asarray(matrix, dtype=np.float64)
    totals = matrix.sum(1, keepdims=True)
    fractions = np.divide(matrix, totals, out=np.zeros_like(matrix), where=totals > 0)
    num_classes = len(classes)
    side = min(4 + 0.42 * num_classes, 24)
    figure = Figure(figsize=(side + 1, side), dpi=120, layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = axes.imshow(fractions, cmap='Blues', vmin=0, vmax=1)
    axes.set_xlabel('predicted')
    axes.set_ylabel('label')
    font_size = max(4, min(9, 260 / num_classes))
    row_names = [
        name if total else f'{name} (none)' for name, total in zip(classes, totals[:, 0], strict=True)
    ]
    axes.set_xticks(range(num_classes), classes, rotation=90, fontsize=font_size)
    axes.set_yticks(range(num_classes), row_names, fontsize=font_size)
    if num_classes <= MAX_CLASSES_WITH_VALUES:
        _write_values(axes, fractions, font_size - 1)
    figure.colorbar(image, ax=axes, shrink=0.7, format=lambda value, _: f'{100 * value:.0f} %')
    figure.savefig(path)


def _write_values(axes, fractions: np.ndarray, font_size: float) -> None:
    """Write percentages of at least 0.5 into the matrix."""
    for row, column in np.argwhere(fractions >= 0.005):
        value = fractions[row, column]
        color = 'white' if value > 0.5 else 'black'
        axes.text(
            column, row, f'{100 * value:.0f}', ha='center', va='center', fontsize=font_size, color=color
        )
