"""One folder of images out of several, without labels and shrunk: what a small pre-training reads.

    python tools/pool_images.py OUT [--short-side 192] FOLDER[:LIST] ...

A folder is searched with all below it. LIST is a file with a name a line (a suffix may be missing, as in
PASCAL VOC's ImageSets): only these are taken, which keeps test images out. Files are written as OUT/<number
of the folder>/<path below it>.jpg; those that are there are kept.
"""

import argparse
from pathlib import Path

import cv2

from mmssl.data.folder import find_images
from mmssl.data.images import decode, open_image, resize


def listed(path: str | None) -> set[str] | None:
    """The first word of every line; None for no list."""
    if not path:
        return None
    return {line.split()[0] for line in Path(path).read_text(encoding='utf-8').splitlines() if line.strip()}


def shrink(source: str, target: Path, short_side: int) -> None:
    """Write an image as JPEG with a short side of at most ``short_side`` pixels; raises BadImageError for what is none."""
    image = open_image(source)
    pixels = decode(image)
    scale = short_side / min(image.width, image.height)
    if scale < 1:
        pixels = resize(pixels, (round(image.height * scale), round(image.width * scale)), interleaved=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(target), pixels, [cv2.IMWRITE_JPEG_QUALITY, 92])


def pool(out: Path, sources: list[str], short_side: int) -> list[int]:
    """Pool folders; returns how many images each gave, ValueError for one that gives none."""
    counts = []
    for number, source in enumerate(sources):
        folder, _, names = source.partition(':')
        wanted = listed(names)
        root, found = find_images(folder, '')
        found = [
            name
            for name in found
            if wanted is None or not wanted.isdisjoint((name, Path(name).name, Path(name).stem))
        ]
        if not found:
            raise ValueError(f'{source}: none of the images of {folder} is named in {names}')
        for name in found:
            target = out / str(number) / Path(name).with_suffix('.jpg')
            if not target.exists():
                shrink(f'{root}/{name}', target, short_side)
        counts.append(len(found))
    return counts


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('out', type=Path, help='the folder to write')
    parser.add_argument(
        'sources',
        nargs='+',
        metavar='FOLDER[:LIST]',
        help='images to take, and a file that names them where not all',
    )
    parser.add_argument('--short-side', type=int, default=192, help='pixels (default: 192)')
    args = parser.parse_args(arguments)
    counts = pool(args.out, args.sources, args.short_side)
    for source, count in zip(args.sources, counts, strict=True):
        print(f'{count:6d}  {source}')
    print(f'{sum(counts):6d}  {args.out}')


if __name__ == '__main__':
    main()
