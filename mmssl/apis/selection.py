"""Selection of images from a file of features: what to label first."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmssl.apis.feature_images import read_list, rows_of_paths, write_list, write_sheet
from mmssl.apis.neighbours import query_features
from mmssl.evaluation.feature_files import FeatureSet, read_features
from mmssl.evaluation.selection import select_diverse, select_like, select_outliers, select_typical
from mmssl.hints import nearest

WAYS = ('diverse', 'typical', 'outliers', 'like')
_RANKINGS: dict[str, Callable[..., list[int]]] = dict(
    diverse=select_diverse, typical=select_typical, outliers=select_outliers
)
# pictures of a contact sheet
MAX_TILES = 400


def select(
    features: str | os.PathLike,
    number: int,
    how: str = 'typical',
    like: Sequence[str | os.PathLike] = (),
    exclude: str | os.PathLike | Sequence[str | os.PathLike] = (),
    out: str | os.PathLike | None = None,
    sheet: str | os.PathLike | None = None,
    **options: Any,
) -> list[str]:
    """Select images by their features. The same file gives the same images.

    Args:
        features: A file of :func:`mmssl.apis.embed`.
        number: Number of images.
        how: 'diverse' covers all images (k-centre), 'typical' takes the densest of each cluster
            (TypiClust), 'outliers' those that are far from all others, 'like' those similar to the images in
            ``like``. With few labels typical images are better, with many diverse ones (arXiv:2202.02794).
        like: Images; those of the file are not among the results.
        exclude: List files (.txt) of images not to select, as they are labelled already. 'diverse' and
            'typical' complement them.
        out: List file to write, a path per line.
        sheet: PNG file with the first pictures to write.
        **options: ``model``, config and checkpoint for images in ``like`` that are not in the file, and
            device, cfg_options and trust, as for :func:`mmssl.apis.embed`.

    Returns:
        The paths, in the order of their selection.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: There are fewer images than ``number``, or an argument does not fit.

    Examples:
        >>> from mmssl.apis import select
        >>> select('photos.parquet', 100, 'typical', out='label-first.txt')
    """
    if how not in WAYS:
        raise ValueError(f'how={how!r} is unknown{nearest(how, WAYS) or "; one of " + ", ".join(WAYS)}')
    if (how == 'like') != bool(like):
        raise ValueError("how='like' needs images to be like, and no other way takes any")
    content = read_features(features)
    excluded = _excluded_rows(content, exclude)
    if how == 'like':
        model = options.pop('model', None)
        queries, rows = query_features(content, features, like, model, options)
        selected = select_like(content.features, queries, number, sorted({*excluded, *rows}))
    else:
        selected = _RANKINGS[how](content.features, number, excluded)
    paths = [content.paths[row] for row in selected]
    if sheet is not None:
        tiles = [((path,), f'{index + 1}', Path(path).name) for index, path in enumerate(paths[:MAX_TILES])]
        shown = '' if number <= MAX_TILES else f', the first {MAX_TILES}'
        write_sheet(sheet, tiles, f'{number} of {len(content.paths)} images, {how}{shown}')
    if out is not None:
        write_list(out, paths)
    return paths


def _excluded_rows(content: FeatureSet, exclude: Any) -> list[int]:
    lists = [exclude] if isinstance(exclude, (str, os.PathLike)) else exclude
    rows = (row for file in lists for row in rows_of_paths(read_list(file), content.paths, os.fspath(file)))
    return sorted(set(rows))
