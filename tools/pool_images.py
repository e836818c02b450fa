"""Pool several folders of images into one, without labels and reduced in size, for a small pre-training.

    python tools/pool_images.py OUT [--short-side 192] FOLDER[:LIST] ...

Folders are searched recursively. LIST is a file with one name per line (a suffix may be missing, as in PASCAL
VOC's ImageSets): only these images are used, which keeps test images out. Files are written as OUT/<index of
the folder>/<path below it>.jpg; existing ones are kept.
"""

import argparse
from pathlib import Path

import cv2

from mmssl.data.folder import find_images
from mmssl.data.images import decode, open_image, resize


def read_list(path: str | None) -> set[str] | None:
    """Return the first word of every line of a file; None for no file."""
    if not path:
        return None
    return {line.split()[0] for line in Path(path).read_text(encoding='utf-8').splitlines() if line.strip()}


def shrink(source: str, target: Path, short_side: int) -> None:
    """Write an image as a JPEG whose short side has at most ``short_side`` pixels.

    Raises:
        BadImageError: The source is not a readable image.
    """
    image = open_image(source)
    pixels = decode(image)
    scale = short_side / min(image.width, image.height)
    if scale < 1:
        pixels = resize(pixels, (round(image.height * scale), round(image.width * scale)), interleaved=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(target), pixels, [cv2.IMWRITE_JPEG_QUALITY, 92])


def pool(out: Path, sources: list[str], short_side: int) -> list[int]:
    """Pool folders and return the number of images of each.

    Raises:
        ValueError: A folder contains none of its listed images.
    """
    counts = []
    for index, source in enumerate(sources):
        folder, _, names = source.partition(':')
        listed = read_list(names)
        root, images = find_images(folder, '')
        if listed is not None:
            images = [
                name for name in images if not listed.isdisjoint((name, Path(name).name, Path(name).stem))
            ]
        if not images:
            raise ValueError(f'{source}: none of the images of {folder} is named in {names}')
        for name in images:
            target = out / str(index) / Path(name).with_suffix('.jpg')
            if not target.exists():
                shrink(f'{root}/{name}', target, short_side)
        counts.append(len(images))
    return counts


def main(arguments: list[str] | None = None) -> None:
    """Pool folders and print the numbers of images."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('out', type=Path, help='folder to write')
    parser.add_argument(
        'sources',
        nargs='+',
        metavar='FOLDER[:LIST]',
        help='folder, and optionally a file with the names of the images to use',
    )
    parser.add_argument('--short-side', type=int, default=192, help='pixels (default: 192)')
    args = parser.parse_args(arguments)
    counts = pool(args.out, args.sources, args.short_side)
    for source, count in zip(args.sources, counts, strict=True):
        print(f'{count:6d}  {source}')
    print(f'{sum(counts):6d}  {args.out}')


if __name__ == '__main__':
    main()
