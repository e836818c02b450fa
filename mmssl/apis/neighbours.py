"""Search of a file of features for the images that are most similar to another one."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmssl.apis.embedding import describe_model
from mmssl.apis.embedding_model import EmbedOptions, FeatureModel
from mmssl.apis.feature_images import write_sheet
from mmssl.evaluation.feature_files import FeatureSet, normalized, read_features
from mmssl.evaluation.neighbours import nearest_rows
from mmssl.hints import nearest_path

# parts of a description that features of the same model share
MODEL_KEYS = ('config_digest', 'checkpoint_digest', 'pool', 'image_size')


class Neighbour(NamedTuple):
    """An image and its cosine similarity to the query."""

    path: str
    similarity: float


def search(
    features: str | os.PathLike,
    image: str | os.PathLike,
    number: int = 10,
    model: tuple[Any, Any] | None = None,
    sheet: str | os.PathLike | None = None,
    **options: Any,
) -> list[Neighbour]:
    """Find the images that are most similar to an image.

    Args:
        features: A file of :func:`mmssl.apis.embed`.
        image: An image of the file, which is not among its results, or another one, for which ``model`` is
            needed.
        number: Number of results.
        model: Config and checkpoint that the features were made with.
        sheet: PNG file to write the image and the results to.
        **options: device, cfg_options and trust, as for :func:`mmssl.apis.embed`.

    Returns:
        The most similar first.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The model is needed, or is another one.

    Examples:
        >>> from mmssl.apis import search
        >>> search('photos.parquet', 'photos/cat.jpg', number=5)[0].path
    """
    if number < 1:
        raise ValueError(f'number={number} must be at least 1')
    content = read_features(features)
    queries, rows = query_features(content, features, [image], model, options)
    similarities, neighbours = nearest_rows(
        content.features, queries, number, torch.tensor(rows) if rows else None
    )
    values = similarities[0].clamp(max=1).tolist()
    results = [
        Neighbour(content.paths[row], value)
        for row, value in zip(neighbours[0].tolist(), values, strict=True)
    ]
    if sheet is not None:
        tiles = [((os.fspath(image),), 'query', Path(image).name)]
        tiles += [((path,), f'{value:.3f}', Path(path).name) for path, value in results]
        write_sheet(
            sheet, tiles, f'{len(results)} images like {Path(image).name}', f'of {len(content.paths)}'
        )
    return results


def query_features(
    content: FeatureSet,
    source: str | os.PathLike,
    images: Sequence[str | os.PathLike],
    model: tuple[Any, Any] | None,
    options: dict[str, Any],
) -> tuple[Tensor, list[int]]:
    """Return the normalised features (M, D) of images, and the rows of those that are in the file.

    Images of the file come first.

    Args:
        content: The features.
        source: Their file, for messages.
        images: Paths.
        model: Config and checkpoint for images that are not in the file; None if all are.
        options: Options of :class:`mmssl.apis.embedding_model.EmbedOptions`.

    Raises:
        FileNotFoundError: There is no such image.
        ValueError: The model is needed, or is another one.
    """
    index = {os.path.abspath(path): row for row, path in enumerate(content.paths)}
    paths = [os.path.abspath(os.path.expanduser(os.fspath(image))) for image in images]
    rows = [index[path] for path in paths if path in index]
    others = [path for path in paths if path not in index]
    features = [normalized(content.features[rows])] if rows else []
    if others:
        missing = next((path for path in others if not os.path.exists(path)), None)
        if missing:
            raise FileNotFoundError(f'{missing} does not exist{nearest_path(missing)}')
        features.append(_computed(content, source, others, model, options))
    return torch.cat(features), rows


def _computed(
    content: FeatureSet, source: Any, paths: list[str], model: tuple[Any, Any] | None, options: dict[str, Any]
) -> Tensor:
    made_by = content.description
    if model is None:
        known = f', such as {made_by["config"]} {made_by["checkpoint"]}' if 'config' in made_by else ''
        raise ValueError(
            f'{paths[0]} is not among the images of {source}; give the model that made the features: '
            f'--model CONFIG CHECKPOINT{known}'
        )
    run = EmbedOptions(
        **{**options, 'pool': made_by.get('pool'), 'image_size': made_by.get('image_size')}, workers=0
    )
    described = describe_model(*model, run)
    for name in MODEL_KEYS:
        if made_by and made_by.get(name) != described[name]:
            raise ValueError(
                f'{source} was made by another model: {made_by.get("config")} {made_by.get("checkpoint")} '
                f'({name} {made_by.get(name)}, not {described[name]})'
            )
    queries = FeatureModel(*model, run)(paths)
    if queries.shape[1] != content.features.shape[1]:
        raise ValueError(
            f'{source} has features of {content.features.shape[1]} numbers, the model returns '
            f'{queries.shape[1]}: it was made by another model'
        )
    return normalized(queries)
