"""Prompts and images on the command line of ``mmssl segment``."""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmssl.commands.arguments import option_name
from mmssl.commands.sam_arguments import generator_settings
from mmssl.hints import nearest_path

if TYPE_CHECKING:
    from mmssl.data.pictures import PictureSettings


def parse_numbers(option: str, text: str, form: str) -> list[float]:
    """Parse numbers with commas between them.

    Args:
        option: Name of the option, for the error message.
        text: Its value.
        form: Expected form, with optional numbers in brackets: 'x,y' or 'x,y[,label]'.

    Raises:
        ValueError: The text does not have this form.
    """
    minimum = form.partition('[')[0].count(',') + 1
    maximum = form.count(',') + 1
    try:
        values = [float(part) for part in text.split(',')]
    except ValueError:
        values = []
    if not minimum <= len(values) <= maximum or not all(map(math.isfinite, values)):
        raise ValueError(f'{option} {text!r} is not {form}: numbers with commas between them and no spaces')
    return values


def parse_prompts(args: argparse.Namespace) -> list[dict]:
    """Group the prompts by object.

    Returns:
        One dict per object: 'points' (N, 2), 'labels' (N,) and 'box' (4,) as lists, which may be empty.

    Raises:
        ValueError: A prompt is malformed, or the prompts can be grouped in several ways.
    """
    points = [_parse_point(text) for text in args.point]
    boxes = [_parse_box(text) for text in args.box]
    if args.separate:
        objects = [_object([point]) for point in points] + [_object(box=box) for box in boxes]
    elif len(boxes) > 1:
        if points:
            raise ValueError(
                f'{len(points)} points and {len(boxes)} boxes: which box do the points belong to? Give one '
                'box, or '
                '--separate'
            )
        objects = [_object(box=box) for box in boxes]
    elif points or boxes or args.mask:
        objects = [_object(points, boxes[0] if boxes else ())]
    else:
        objects = []
    if args.mask and len(objects) > 1:
        raise ValueError(f'--mask {args.mask} is of one object, and the prompts are of {len(objects)}')
    if not args.mask:
        _check_foreground(objects)
    return objects


def _object(points: Sequence[tuple[float, float, int]] = (), box: Sequence[float] = ()) -> dict:
    return dict(
        points=[[x, y] for x, y, _ in points], labels=[label for _, _, label in points], box=list(box)
    )


def _parse_point(text: str) -> tuple[float, float, int]:
    x, y, *rest = parse_numbers('--point', text, 'x,y[,label]')
    label = rest[0] if rest else 1
    if label not in (0, 1):
        raise ValueError(f'--point {text}: the label is 1 (on the object) or 0 (beside it), not {label:g}')
    return x, y, int(label)


def _parse_box(text: str) -> list[float]:
    box = parse_numbers('--box', text, 'x1,y1,x2,y2')
    if not (box[0] < box[2] and box[1] < box[3]):
        raise ValueError(f'--box {text} has no area; give x1,y1,x2,y2 with x1 < x2 and y1 < y2')
    return box


def _check_foreground(objects: Sequence[dict]) -> None:
    for prompts in objects:
        if prompts['points'] and not any(prompts['labels']) and not prompts['box']:
            x, y = prompts['points'][0]
            raise ValueError(f'--point {x:g},{y:g},0 lies beside an object; add a point on it, or a box')


def check_mode(args: argparse.Namespace, objects: Sequence[dict]) -> dict:
    """Check that either prompts or ``--auto`` are given, and return the settings of the automatic masks.

    Raises:
        ValueError: Both or neither are given, or an option of the other mode.
    """
    settings = generator_settings(args)
    if args.auto:
        incompatible = {'--multimask': args.multimask, '--separate': args.separate, 'prompts': objects}
        for name, value in incompatible.items():
            if value:
                raise ValueError(f'--auto segments everything and takes no {name}; leave one of them out')
    elif not objects:
        raise ValueError('nothing to segment by: give --point, --box or --mask, or --auto for everything')
    elif settings:
        option = option_name(next(iter(settings)))
        raise ValueError(f'{option} is for automatic masks; add --auto, or leave it out')
    return settings


def find_images(inputs: Sequence[str], exclude: Sequence[Path] = ()) -> list[Path]:
    """List files and the images in folders, each file once.

    Args:
        inputs: Files and folders.
        exclude: Folders that are not searched.

    Raises:
        FileNotFoundError: An input does not exist.
        ValueError: A folder has no images.
    """
    from mmssl.data.annotations import images_below, unique

    paths: list[Path] = []
    for path in map(Path, inputs):
        if not path.exists():
            raise FileNotFoundError(f'{path} does not exist{nearest_path(path)}')
        files = [
            file
            for file in (images_below(path) if path.is_dir() else [path])
            if not any(file.resolve().is_relative_to(folder.resolve()) for folder in exclude)
        ]
        if not files:
            raise ValueError(f'{path} holds no image')
        paths += files
    return unique(paths)


def check_images(
    args: argparse.Namespace, objects: Sequence[dict], paths: Sequence[Path], pictures: 'PictureSettings'
) -> None:
    """Check the headers of the images and that the prompts lie inside, before anything is written.

    Raises:
        FileNotFoundError: The mask does not exist.
        ValueError: A file is not an image, or a prompt is outside of an image.
    """
    from mmssl.data.pictures import picture_size

    if args.mask and not Path(args.mask).is_file():
        raise FileNotFoundError(f'--mask {args.mask} does not exist{nearest_path(args.mask)}')
    if args.mask and len(paths) > 1:
        raise ValueError(f'--mask {args.mask} is of one image, not of {len(paths)}')
    for path in paths:
        width, height = picture_size(path, pictures)
        for prompts in objects:
            outside = _first_outside(prompts, width, height)
            if outside:
                raise ValueError(
                    f'{outside} is outside of {path}, which is {width}x{height} pixels (width x height)'
                )


def _first_outside(prompts: dict, width: int, height: int) -> str:
    """Return the first prompt of an object that is outside of an image, as typed; '' if there is none."""
    for x, y in prompts['points']:
        if not (0 <= x < width and 0 <= y < height):
            return f'--point {x:g},{y:g}'
    if prompts['box']:
        x1, y1, x2, y2 = prompts['box']
        if not (x1 >= 0 and x2 <= width and y1 >= 0 and y2 <= height):
            return f'--box {",".join(f"{value:g}" for value in prompts["box"])}'
    return ''
