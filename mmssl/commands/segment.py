"""``mmssl segment``: masks in images, from points, boxes, a mask, or of everything."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmssl.commands.arguments import check_output_folder, progress_hidden
from mmssl.commands.default_models import find_sam
from mmssl.commands.picture_arguments import add_picture_arguments, picture_settings
from mmssl.commands.sam_arguments import (
    NO_MASKS,
    add_generator_arguments,
    add_model_arguments,
    generator_settings,
)
from mmssl.commands.segment_prompts import check_images, check_mode, find_images, parse_prompts

if TYPE_CHECKING:
    import numpy as np

    from mmssl.apis.segmenters import AutomaticSegmenter, PromptedSegmenter

HELP = 'segment images by points, boxes or a mask, or everything in them: PNG masks, a COCO file, overlays'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument('images', nargs='+', metavar='IMAGE', help='image files, and folders of images')
    parser.add_argument(
        '--point',
        action='append',
        default=[],
        metavar='X,Y[,LABEL]',
        help='point in pixels from the upper left corner of the image; label 1 (default) is on the object, '
        '0 beside '
        'it. All points belong to one object',
    )
    parser.add_argument(
        '--box',
        action='append',
        default=[],
        metavar='X1,Y1,X2,Y2',
        help='box around an object; points refine a single box',
    )
    parser.add_argument(
        '--mask',
        metavar='FILE',
        help='rough mask of the object: an image of the same size that is not black on the object, or '
        'logits as .npy',
    )
    parser.add_argument('--separate', action='store_true', help='every --point is an object of its own')
    parser.add_argument(
        '--multimask',
        action='store_true',
        help='write all three masks of each object instead of the best',
    )
    parser.add_argument('--auto', action='store_true', help='segment everything, from a grid of points')
    parser.add_argument(
        '--out',
        required=True,
        metavar='DIR',
        help='folder for annotations.json, masks/NAME/000.png ... and overlays/NAME.png',
    )
    parser.add_argument('--force', action='store_true', help='replace existing results in DIR')
    add_model_arguments(parser)
    add_picture_arguments(parser)
    add_generator_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Segment the images.

    Returns:
        1 if images could not be read, which are reported and left out; else 0.

    Raises:
        FileNotFoundError: An image, the mask or the checkpoint does not exist.
        FileExistsError: The output folder has results already.
        ValueError: A prompt is malformed or outside of an image, there are no prompts, or the checkpoint does
            not fit.
    """
    from mmssl.apis.sam import check_checkpoint
    from mmssl.data import annotations
    from mmssl.data.pictures import showing

    objects = parse_prompts(args)
    check_mode(args, objects)
    find_sam(args, args.auto)
    settings = generator_settings(args)
    check_checkpoint(args.checkpoint)
    out = Path(args.out)
    paths = find_images(args.images, exclude=(out / 'masks', out / 'overlays'))
    pictures = picture_settings(args)
    check_images(args, objects, paths, pictures)
    result = out / 'annotations.json'
    check_output_folder(out)
    if result.exists() and not args.force:
        raise FileExistsError(f'{result} exists; --force replaces it, or name another folder')
    annotations.coco_masks()
    segmenter = _segmenter(args, objects, settings)
    root, names = annotations.output_names(paths)
    results = _Results(out, root)
    try:
        with showing(pictures):
            _segment_all(results, segmenter, dict(zip(names, paths, strict=True)), progress_hidden(args))
    finally:
        if results.images:
            annotations.write_json(result, annotations.coco_content(results.images, results.annotations))
    empty = f', {results.empty} empty ones left out' if results.empty else ''
    hint = f'; file names are below {root}'
    if args.auto and results.images and not results.annotations:
        hint = NO_MASKS
    print(f'{out}: {len(results.annotations)} masks of {len(results.images)} images{empty}{hint}')
    for reason in results.unreadable:
        print(f'mmssl segment: left out: {reason}', file=sys.stderr)
    return int(bool(results.unreadable))


def _segmenter(
    args: argparse.Namespace, objects: Sequence[dict], settings: dict
) -> 'AutomaticSegmenter | PromptedSegmenter':
    from mmssl.apis.loading import pick_device
    from mmssl.apis.sam import load_sam
    from mmssl.apis.segmenters import AutomaticSegmenter, PromptedSegmenter

    device = pick_device(args.device)
    model = load_sam(args.model, args.checkpoint, args.cfg_options, args.trust_checkpoint).to(device)
    if args.auto:
        return AutomaticSegmenter(model, settings, args.cache_dir, show_progress=not progress_hidden(args))
    return PromptedSegmenter(model, objects, args.multimask, args.mask, args.cache_dir)


class _Results:
    """What has been written so far, for the COCO file and the summary.

    Args:
        out: Output folder.
        root: Folder that file names are relative to.
    """

    def __init__(self, out: Path, root: Path):
        self.out = out
        self.root = root
        self.images: list[dict] = []
        self.annotations: list[dict] = []
        self.unreadable: list[str] = []
        self.empty = 0

    def add(self, path: Path, name: str, pixels: 'np.ndarray', records: Sequence[dict]) -> None:
        """Add an image with the records of its masks."""
        height, width = pixels.shape[:2]
        file_name = path.resolve().relative_to(self.root).as_posix()
        image = dict(id=len(self.images) + 1, file_name=file_name, width=width, height=height)
        self.images.append(image)
        for index, record in enumerate(records):
            mask_file = f'masks/{name}/{index:03d}.png'
            self.annotations.append(dict(image_id=image['id'], mask_file=mask_file, **record))


def _segment_all(
    results: _Results,
    segmenter: 'AutomaticSegmenter | PromptedSegmenter',
    paths: dict[str, Path],
    hidden: bool,
) -> None:
    from tqdm import tqdm

    from mmssl.data.pictures import read_channels, read_rgb
    from mmssl.errors import BadImageError

    for name, path in tqdm(paths.items(), desc='segmenting', unit='image', disable=hidden):
        try:
            pixels = read_rgb(path)
            values = None if segmenter.channels == 3 else read_channels(path, segmenter.channels)
        except (BadImageError, OSError) as error:
            results.unreadable.append(str(error))
            continue
        records = segmenter(pixels if values is None else values)
        masks = [record for record in records if record['area']]
        results.empty += len(records) - len(masks)
        _save(results.out, name, pixels, masks, segmenter)
        results.add(path, name, pixels, masks)


def _save(
    out: Path,
    name: str,
    pixels: 'np.ndarray',
    records: Sequence[dict],
    segmenter: 'AutomaticSegmenter | PromptedSegmenter',
) -> None:
    """Write the masks and the overlay of an image atomically, and remove masks of an earlier run."""
    from PIL import Image
    from pycocotools import mask as coco

    from mmssl.visualization.files import write_image

    folder = out / 'masks' / name
    folder.mkdir(parents=True, exist_ok=True)
    for index, record in enumerate(records):
        write_image(Image.fromarray(coco.decode(record['segmentation']) * 255), folder / f'{index:03d}.png')
    for path in folder.glob('*.png'):
        if path.stem.isdigit() and int(path.stem) >= len(records):
            path.unlink()
    write_image(segmenter.draw(pixels, records), out / 'overlays' / f'{name}.png')
