"""A picture of a confusion matrix."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

MAX_WRITTEN = 30


def draw_confusion(matrix: np.ndarray, classes: Sequence[str], path: str | Path) -> None:
    """Draw which share of every class's pixels goes where.

    Args:
        matrix: (C, C) counts, rows: label.
        classes: C names.
        path: PNG file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    matrix = np.asarray(matrix, dtype=np.float64)
    totals = matrix.sum(1, keepdims=True)
    shares = np.divide(matrix, totals, out=np.zeros_like(matrix), where=totals > 0)
    number = len(classes)
    side = min(4 + 0.42 * number, 24)
    figure = Figure(figsize=(side + 1, side), dpi=120, layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap='Blues', vmin=0, vmax=1)
    axes.set_xlabel('predicted')
    axes.set_ylabel('label')
    size = max(4, min(9, 260 / number))
    axes.set_xticks(range(number), classes, rotation=90, fontsize=size)
    axes.set_yticks(
        range(number),
        [name if total else f'{name} (none)' for name, total in zip(classes, totals[:, 0], strict=True)],
        fontsize=size,
    )
    if number <= MAX_WRITTEN:
        for row in range(number):
            for column in range(number):
                if shares[row, column] >= 0.005:
                    axes.text(
                        column,
                        row,
                        f'{100 * shares[row, column]:.0f}',
                        ha='center',
                        va='center',
                        fontsize=size - 1,
                        color='white' if shares[row, column] > 0.5 else 'black',
                    )
    figure.colorbar(image, ax=axes, shrink=0.7, format=lambda value, _: f'{100 * value:.0f} %')
    figure.savefig(path)
