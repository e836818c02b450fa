"""Pairs of label maps to score: files by name, classes by table or by value."""

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from mmssl.data.label_formats.class_table import find_table
from mmssl.data.label_formats.files import LabelFolder
from mmssl.data.label_formats.map_pairs import find_pairs, map_key
from mmssl.data.label_formats.map_values import MapValues, scan_maps
from mmssl.data.label_formats.maps import map_meaning, read_mapped
from mmssl.data.label_maps import read_label_map
from mmssl.data.label_values import BINARY_CLASSES
from mmssl.errors import LabelError

IGNORE_INDEX = 255
LOSSLESS = ('.png', '.tif', '.tiff', '.bmp', '.gif')


class Side(NamedTuple):
    """The label maps of the truth or of a prediction.

    Attributes:
        path: The folder or file.
        files: Path of each map by its name.
        values: What the maps hold.
        classes: Names of the classes, if there is a table of them.
        label_map: Value or colour -> class, if there is a table.
    """

    path: str
    files: dict[str, str]
    values: MapValues
    classes: list[str] | None
    label_map: dict[Any, int | None] | None


class MapPairs(NamedTuple):
    """Label maps to compare.

    Attributes:
        files: Paths of the truth and the prediction of each image.
        classes: Names of the classes.
        ignore_index: Label of pixels that are not counted.
        truth_map: Value or colour -> label, None if the values are the labels.
        prediction_map: Likewise.
        notes: What was assumed.
    """

    files: list[tuple[str, str]]
    classes: list[str]
    ignore_index: int
    truth_map: dict[Any, int | None] | None
    prediction_map: dict[Any, int | None] | None
    notes: list[str]


def map_pairs(truth, prediction, ignore: int | None, num_classes: int | None) -> MapPairs:
    """Pair the label maps of two folders or files.

    Classes of both sides are compared by name if both have a table; a table on one side is that of both.
    Without tables the values are the classes; 0 and 255 alone are background and foreground unless ``ignore``
    is given.

    Raises:
        LabelError: A file is only on one side, or a class of the prediction is not one of the truth.
    """
    true_side, predicted_side = _side(truth, ignore), _side(prediction, None)
    files = _matched(true_side, predicted_side)
    ignore_index = IGNORE_INDEX if ignore is None else ignore
    if true_side.label_map is None and predicted_side.label_map is None:
        return _without_tables(files, true_side, predicted_side, ignore, num_classes)
    if true_side.label_map is None:
        true_side = _with_table_of(true_side, predicted_side, ignore_index)
    elif predicted_side.label_map is None:
        predicted_side = _with_table_of(predicted_side, true_side)
    assert true_side.classes is not None
    prediction_map = _by_name(true_side, predicted_side)
    return MapPairs(files, true_side.classes, ignore_index, true_side.label_map, prediction_map, [])


def _without_tables(
    files: list[tuple[str, str]], truth: Side, prediction: Side, ignore: int | None, num_classes: int | None
) -> MapPairs:
    ignore_index = IGNORE_INDEX if ignore is None else ignore
    for side in (truth, prediction):
        if side.values.is_colored:
            raise LabelError(
                'the label maps have colours and no table; write classes.csv (name,r,g,b) beside them',
                side.path,
            )
    if ignore is None and _is_binary(truth.values, prediction.values):
        binary: dict[Any, int | None] = {0: 0, 1: 1, 255: 1}
        note = 'the label maps of 0 and 255 are background and foreground; --ignore 255 ignores 255'
        return MapPairs(files, list(BINARY_CLASSES), -1, binary, binary, [note])
    values = {*truth.values.files, *prediction.values.files} - {ignore_index}
    count = num_classes or max(values, default=0) + 1
    return MapPairs(files, [str(index) for index in range(count)], ignore_index, None, None, [])


def _with_table_of(side: Side, other: Side, ignore: int | None = None) -> Side:
    """Return a side with the classes of the other side's table, in which all of its values must be."""
    assert other.label_map is not None
    label_map = other.label_map if ignore is None else {**other.label_map, ignore: None}
    unknown = [value for value in side.values.files if value not in label_map]
    if unknown:
        raise LabelError(
            f'holds {unknown[0]}, which is no class in the table of {other.path}',
            side.values.files[unknown[0]],
        )
    return side._replace(classes=other.classes, label_map=label_map)


def _by_name(truth: Side, prediction: Side) -> dict[Any, int | None]:
    """Return the label map of the prediction with the truth's numbers of the classes."""
    assert truth.classes is not None and prediction.classes is not None and prediction.label_map is not None
    result: dict[Any, int | None] = {}
    for value, label in prediction.label_map.items():
        name = None if label is None else prediction.classes[label]
        if name is None:
            result[value] = None
        elif name in truth.classes:
            result[value] = truth.classes.index(name)
        elif value in prediction.values.files:
            raise LabelError(
                f'predicts the class {name!r}, which the truth does not have '
                f'({", ".join(truth.classes[:5])})',
                prediction.values.files[value],
            )
    return result


def _is_binary(truth: MapValues, prediction: MapValues) -> bool:
    return set(truth.files) == {0, 255} and set(prediction.files) <= {0, 1, 255}


def _side(path, ignore: int | None) -> Side:
    folder = LabelFolder(path)
    files = [folder.path] if os.path.isfile(folder.path) else _map_files(folder)
    if not files:
        raise LabelError('holds no label map (.png, .tif, .bmp)', path)
    names: dict[str, str] = {}
    for file in files:
        name = os.path.splitext(folder.below(file))[0]
        if names.setdefault(name, file) != file:
            raise LabelError(f'{folder.below(file)} and {folder.below(names[name])} have the same name', path)
    values = scan_maps(files)
    table = find_table(folder)
    if not table:
        return Side(str(path), names, values, None, None)
    classes, label_map, _ = map_meaning(folder, values, table, set() if ignore is None else {ignore})
    return Side(str(path), names, values, classes, label_map)


def _map_files(folder: LabelFolder) -> list[str]:
    """Return the label maps of a folder: the partners of its images, or all images of lossless formats."""
    maps = {
        file
        for image, file in find_pairs(folder).items()
        if os.path.dirname(image) != os.path.dirname(file) or not image.lower().endswith(LOSSLESS)
    }
    return sorted(maps) or [file for file in folder.images if file.lower().endswith(LOSSLESS)]


def _matched(truth: Side, prediction: Side) -> list[tuple[str, str]]:
    if len(truth.files) == len(prediction.files) == 1 and os.path.isfile(truth.path):
        return list(zip(truth.files.values(), prediction.files.values(), strict=True))
    for form in (str, _key, _stem):
        true_names, names = (Counter(map(form, side.files)) for side in (truth, prediction))
        if true_names == names and max(names.values()) == 1:
            others = {form(name): file for name, file in prediction.files.items()}
            return [(file, others[form(name)]) for name, file in truth.files.items()]
    stems = [{_stem(name): file for name, file in side.files.items()} for side in (truth, prediction)]
    for own, other, path in ((stems[0], stems[1], prediction.path), (stems[1], stems[0], truth.path)):
        single = sorted(own.keys() - other.keys())
        if single:
            more = f', nor {len(single) - 1} more' if len(single) > 1 else ''
            raise LabelError(
                f'has no partner in {path}{more}; both sides need the same names', own[single[0]]
            )
    raise LabelError(
        f'has {len(prediction.files)} label maps, {truth.path} has {len(truth.files)}, and names repeat in '
        'other folders; use the same folders on both sides',
        prediction.path,
    )


def _key(name: str) -> str:
    return '/'.join(map_key(PurePosixPath(name).parts))


def _stem(name: str) -> str:
    return PurePosixPath(name).name


def load_pair(pairs: MapPairs, truth: str, prediction: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the label and the prediction of an image, (H, W) integers.

    Raises:
        LabelError: The sizes differ.
    """
    label = _load(truth, pairs.truth_map, pairs.ignore_index)
    pred = _load(prediction, pairs.prediction_map, pairs.ignore_index)
    if label.shape != pred.shape:
        raise LabelError(
            f'is {pred.shape[1]}x{pred.shape[0]}, the truth {truth} {label.shape[1]}x{label.shape[0]}',
            prediction,
        )
    return label, pred


def _load(path: str, label_map: Mapping[Any, int | None] | None, ignore_index: int) -> np.ndarray:
    return read_label_map(path) if label_map is None else read_mapped(path, label_map, ignore_index)
