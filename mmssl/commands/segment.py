"""``mmssl segment``: masks of images from points, boxes, a mask, or none of them."""

import argparse
from collections.abc import Iterator

HELP = 'segment images by points, boxes or a mask, or everything in them: PNG masks, a COCO file, pictures'
# the probability that a pixel of --mask stands for; a mask as a prompt is logits
SURE = 0.999


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    from mmssl.commands.prompting import add_generator_arguments, add_model_arguments

    parser.add_argument('images', nargs='+', metavar='IMAGE', help='image files, and folders of them')
    parser.add_argument(
        '--point',
        action='append',
        default=[],
        metavar='X,Y[,LABEL]',
        help='in pixels of the image, from its upper left corner; label 1 (default) lies on the object, 0 beside it. All '
        'points are about one object',
    )
    parser.add_argument(
        '--box',
        action='append',
        default=[],
        metavar='X1,Y1,X2,Y2',
        help='an object each; points refine a single box',
    )
    parser.add_argument(
        '--mask',
        metavar='FILE',
        help='a rough mask of the object: a picture of the size of the image, not black where it is; or logits as .npy',
    )
    parser.add_argument('--separate', action='store_true', help='every --point is an object of its own')
    parser.add_argument(
        '--multimask',
        action='store_true',
        help='keep all three masks of an object; else the best of three of a single point, and the one of other prompts',
    )
    parser.add_argument('--auto', action='store_true', help='everything in the image, by a grid of points')
    parser.add_argument(
        '--out',
        required=True,
        metavar='DIR',
        help='gets annotations.json, masks/NAME/000.png ..., overlays/NAME.png',
    )
    parser.add_argument('--force', action='store_true', help='replace the results that DIR holds')
    add_model_arguments(parser)
    add_generator_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Segment.

    Returns:
        1 where images could not be read, which are named and left out; else 0.

    Raises:
        FileNotFoundError: no such image, mask or checkpoint.
        FileExistsError: DIR holds results.
        ValueError: a prompt that is malformed or outside of an image, none at all, a checkpoint that does not
            fit.
    """
    import sys
    from pathlib import Path

    from tqdm import tqdm

    from mmssl.commands import prompting
    from mmssl.commands.features import pick_device
    from mmssl.data.images import BadImageError
    from mmssl.promptable import annotations

    objects = read_prompts(args)
    settings = check_auto(args, objects)
    prompting.check_files(args.checkpoint)
    out = Path(args.out)
    paths = find_images(args.images, leave_out=(out / 'masks', out / 'overlays'))
    check_prompts(args, objects, paths)
    result = out / 'annotations.json'
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f'--out {out} is a file; name a folder')
    if result.exists() and not args.force:
        raise FileExistsError(f'{result} exists; --force replaces it, or name another folder')
    annotations.coco_masks()
    device = pick_device(args.device)
    model = prompting.load_sam(args.model, args.checkpoint, args.cfg_options, args.trust_checkpoint).to(
        device
    )
    segmenter = (
        Automatic(model, settings, args.cache_dir, prompting.hidden(args))
        if args.auto
        else Prompted(model, objects, args)
    )

    root, names = annotations.output_names(paths)
    images: list[dict] = []
    found, empty, bad = [], 0, []
    try:
        for path, name in tqdm(
            list(zip(paths, names, strict=True)),
            desc='segmenting',
            unit='image',
            disable=prompting.hidden(args),
        ):
            try:
                pixels = prompting.read_rgb(path)
            except (BadImageError, OSError) as error:
                bad.append(str(error))
                continue
            records = segmenter(pixels, path)
            kept = [record for record in records if record['area']]
            empty += len(records) - len(kept)
            save(out, name, pixels, kept, segmenter)
            image = dict(
                id=len(images) + 1,
                file_name=path.resolve().relative_to(root).as_posix(),
                width=pixels.shape[1],
                height=pixels.shape[0],
            )
            images.append(image)
            found += [
                dict(image_id=image['id'], mask_file=f'masks/{name}/{number:03d}.png', **record)
                for number, record in enumerate(kept)
            ]
    finally:
        if images:
            annotations.write_json(result, annotations.coco_content(images, found))
    print(
        f'{out}: {len(found)} masks of {len(images)} images'
        + (f', {empty} empty ones left out' if empty else '')
        + (prompting.NOTHING if args.auto and images and not found else f'; file names are below {root}')
    )
    for reason in bad:
        print(f'mmssl segment: left out: {reason}', file=sys.stderr)
    return int(bool(bad))


def numbers_of(option: str, text: str, form: str) -> list[float]:
    """Numbers between commas.

    Args:
        option, text: as given.
        form: what they should look like, as 'x,y' or 'x,y[,label]'.
    """
    import math

    least, most = form.partition('[')[0].count(',') + 1, form.count(',') + 1
    try:
        values = [float(part) for part in text.split(',')]
    except ValueError:
        values = []
    if not least <= len(values) <= most or not all(map(math.isfinite, values)):
        raise ValueError(f'{option} {text!r} is not {form}: numbers with commas between them and no spaces')
    return values


def read_prompts(args: argparse.Namespace) -> list[dict]:
    """Prompts of every object: 'points' (N, 2), 'labels' (N,) and 'box' (4,), each as a list, or empty.

    Raises:
        ValueError: malformed, or more than one way to read them.
    """
    points, labels, boxes = [], [], []
    for text in args.point:
        x, y, *label = numbers_of('--point', text, 'x,y[,label]')
        if label and label[0] not in (0, 1):
            raise ValueError(
                f'--point {text}: the label is 1 (on the object) or 0 (beside it), not {label[0]:g}'
            )
        points.append([x, y])
        labels.append(int(label[0]) if label else 1)
    for text in args.box:
        box = numbers_of('--box', text, 'x1,y1,x2,y2')
        if not (box[0] < box[2] and box[1] < box[3]):
            raise ValueError(f'--box {text} has no area; give x1,y1,x2,y2 with x1 < x2 and y1 < y2')
        boxes.append(box)
    objects: list[dict[str, list]]
    if args.separate:
        objects = [
            dict(points=[point], labels=[label], box=[]) for point, label in zip(points, labels, strict=True)
        ]
        objects += [dict(points=[], labels=[], box=box) for box in boxes]
    elif len(boxes) > 1:
        if points:
            raise ValueError(
                f'{len(points)} points and {len(boxes)} boxes: which box are they about? Give one box, or --separate'
            )
        objects = [dict(points=[], labels=[], box=box) for box in boxes]
    else:
        objects = (
            [dict(points=points, labels=labels, box=boxes[0] if boxes else [])]
            if points or boxes or args.mask
            else []
        )
    if args.mask and len(objects) > 1:
        raise ValueError(f'--mask {args.mask} is of one object, and the prompts are of {len(objects)}')
    for one in objects:
        if one['points'] and not any(one['labels']) and not one['box'] and not args.mask:
            x, y = one['points'][0]
            raise ValueError(f'--point {x:g},{y:g},0 lies beside an object; add a point on it, or a box')
    return objects


def check_auto(args: argparse.Namespace, objects: list[dict]) -> dict:
    """Settings of the generator; refuses prompts beside --auto, and neither of them."""
    from mmssl.commands.prompting import generator_settings

    settings = generator_settings(args)
    if args.auto:
        beside = (
            '--multimask'
            if args.multimask
            else '--separate'
            if args.separate
            else 'no prompts'
            if objects
            else ''
        )
        if beside:
            raise ValueError(
                f'--auto segments everything and takes no {beside.removeprefix("no ")}; leave one of them out'
            )
    elif not objects:
        raise ValueError('nothing to segment by: give --point, --box or --mask, or --auto for everything')
    elif settings:
        raise ValueError(
            f'--{next(iter(settings)).replace("_", "-")} is of automatic masks; add --auto, or leave it out'
        )
    return settings


def find_images(given: list[str], leave_out: tuple = ()) -> list:
    """Files, with those of folders, each once; FileNotFoundError, or ValueError for a folder without images.

    Args:
        given: files and folders.
        leave_out: folders inside of these that are not searched.
    """
    from pathlib import Path

    from mmssl.hints import nearest_path
    from mmssl.promptable.annotations import images_below, unique

    paths = []
    for path in map(Path, given):
        if not path.exists():
            raise FileNotFoundError(f'{path} does not exist{nearest_path(path)}')
        found = images_below(path) if path.is_dir() else [path]
        found = [
            file
            for file in found
            if not any(file.resolve().is_relative_to(folder.resolve()) for folder in leave_out)
        ]
        if not found:
            raise ValueError(f'{path} holds no image')
        paths += found
    return unique(paths)


def check_prompts(args: argparse.Namespace, objects: list[dict], paths: list) -> None:
    """Refuse what is no image by its header, and prompts outside of one, before anything is written."""
    from pathlib import Path

    from mmssl.data.images import open_image
    from mmssl.hints import nearest_path

    if args.mask and not Path(args.mask).is_file():
        raise FileNotFoundError(f'--mask {args.mask} does not exist{nearest_path(args.mask)}')
    if args.mask and len(paths) > 1:
        raise ValueError(f'--mask {args.mask} is of one image, not of {len(paths)}')
    for path in paths:
        image = open_image(str(path))
        size = f'{path}, which is {image.width}x{image.height} pixels (width x height)'
        for one in objects:
            for x, y in one['points']:
                if not (0 <= x < image.width and 0 <= y < image.height):
                    raise ValueError(f'--point {x:g},{y:g} is outside of {size}')
            box = one['box']
            if box and not (box[0] >= 0 and box[2] <= image.width and box[1] >= 0 and box[3] <= image.height):
                raise ValueError(f'--box {",".join(f"{side:g}" for side in box)} is outside of {size}')


class Automatic:
    """Everything in an image.

    Args:
        model: SAM.
        settings: of the generator.
        cache_dir: of embeddings.
        hide: show no progress within an image.
    """

    def __init__(self, model, settings: dict, cache_dir: str | None = None, hide: bool = True):
        from mmssl.commands.prompting import make_generator

        self.generator, self.hide = make_generator(model, settings, cache_dir), hide

    def __call__(self, pixels, path) -> list[dict]:
        """Records of masks of an image (H, W, 3) RGB, the best first."""
        from mmssl.commands.prompting import generate

        return sorted(
            generate(self.generator, pixels, self.hide), key=lambda record: -record['predicted_iou']
        )

    def picture(self, pixels, records: list[dict]):
        """The masks over the image."""
        from PIL import Image

        from mmssl.visualization.promptable import overlay_codes

        return Image.fromarray(overlay_codes(pixels, [record['segmentation'] for record in records]))


class Prompted:
    """The objects of prompts.

    Args:
        model: SAM.
        objects: of :func:`read_prompts`.
        args: of the command.
    """

    def __init__(self, model, objects: list[dict], args: argparse.Namespace):
        from mmssl.promptable import SamPredictor

        self.predictor = SamPredictor(model, args.cache_dir)
        self.objects, self.multimask, self.mask = objects, args.multimask, args.mask

    def __call__(self, pixels, path) -> list[dict]:
        """Records of masks of an image (H, W, 3) RGB, in the order of the objects."""
        mask = None if self.mask is None else mask_prompt(self.mask, self.predictor.model, pixels.shape[:2])
        self.predictor.set_image(pixels)
        return [
            record for number, one in enumerate(self.objects) for record in self._masks(number, one, mask)
        ]

    def _masks(self, number: int, one: dict, mask) -> Iterator[dict]:
        import numpy as np

        from mmssl.promptable.annotations import encode

        points, box = one['points'], one['box']
        ambiguous = len(points) == 1 and not box and mask is None
        masks, ious, _ = self.predictor.predict(
            np.array(points) if points else None,
            np.array(one['labels']) if points else None,
            np.array(box) if box else None,
            mask,
            multimask_output=self.multimask or ambiguous,
        )
        for place in range(len(masks)) if self.multimask else [int(np.argmax(ious))]:
            yield dict(
                encode(masks[place]),
                predicted_iou=float(ious[place]),
                object=number + 1,
                **(dict(point_coords=points, point_labels=one['labels']) if points else {}),
                **(dict(box=box) if box else {}),
            )

    def picture(self, pixels, records: list[dict]):
        """The masks and the prompts over the image; with several masks an object, a picture each."""
        from PIL import Image

        from mmssl.visualization.colours import class_colour
        from mmssl.visualization.detection import sheet
        from mmssl.visualization.promptable import draw_prompts, overlay_codes

        def drawn(chosen, objects):
            over = overlay_codes(
                pixels,
                [record['segmentation'] for record in chosen],
                [class_colour(record['object'] - 1) for record in chosen],
            )
            points = [point for one in objects for point in one['points']]
            labels = [label for one in objects for label in one['labels']]
            boxes = [one['box'] for one in objects if one['box']]
            return Image.fromarray(draw_prompts(over, points or None, labels or None, boxes or None))

        if not self.multimask or not records:
            return drawn(records, self.objects)
        return sheet(
            [drawn([record], [self.objects[record['object'] - 1]]) for record in records],
            [f'object {record["object"]}, predicted IoU {record["predicted_iou"]:.2f}' for record in records],
        )


def mask_prompt(path: str, model, size: tuple[int, int]):
    """A mask as the prompt encoder takes it.

    Args:
        path: a picture of the size of the image, or .npy of logits (S, S) or (1, S, S), as
            ``SamPredictor.predict`` returns them.
        model: SAM, whose prompts are S x S.
        size: (H, W) of the image.

    Returns:
        (1, S, S) float32 logits.

    Raises:
        ValueError: another size; nothing set.
    """
    import cv2
    import numpy as np

    from mmssl.commands.prompting import read_rgb

    side = model.prompt_encoder.mask_input_size[0]
    if path.endswith('.npy'):
        try:
            logits = np.load(path, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise ValueError(f'--mask {path} is no array of numbers: {error}') from None
        if logits.shape not in ((side, side), (1, side, side)) or logits.dtype.kind != 'f':
            raise ValueError(
                f'--mask {path} holds {logits.dtype} of shape {logits.shape}; logits of this model are float of '
                f'(1, {side}, {side})'
            )
        return logits.reshape(1, side, side).astype(np.float32)
    mask = read_rgb(path).any(2)
    if mask.shape != tuple(size):
        raise ValueError(
            f'--mask {path} is {mask.shape[1]}x{mask.shape[0]} and the image {size[1]}x{size[0]} pixels (width x height); '
            'give it at the size of the image'
        )
    if not mask.any():
        raise ValueError(f'--mask {path} is black; the object is where it is not')
    height, width = (max(1, int(edge * side / max(size) + 0.5)) for edge in size)
    share = np.zeros((side, side))
    share[:height, :width] = cv2.resize(
        mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA
    )
    share = share.clip(1 - SURE, SURE)
    return np.log(share / (1 - share)).astype(np.float32)[None]


def save(out, name: str, pixels, records: list[dict], segmenter) -> None:
    """Write the masks and the picture of an image, each file whole or not at all; masks of an earlier run go."""
    from PIL import Image
    from pycocotools import mask as coco

    folder = out / 'masks' / name
    folder.mkdir(parents=True, exist_ok=True)
    for number, record in enumerate(records):
        write_picture(
            Image.fromarray(coco.decode(record['segmentation']) * 255), folder / f'{number:03d}.png'
        )
    for path in folder.glob('*.png'):
        if path.stem.isdigit() and int(path.stem) >= len(records):
            path.unlink()
    write_picture(segmenter.picture(pixels, records), out / 'overlays' / f'{name}.png')


def write_picture(picture, path) -> None:
    """Write a PNG file whole or not at all; its folder is made."""
    import os

    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'.{path.name}.{os.getpid()}.part')
    try:
        picture.save(part, format='PNG')
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
