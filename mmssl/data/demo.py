"""Demo data from installed packages only: real handwritten digits (scikit-learn) over real photographs (scikit-image, scikit-learn).

The same seed and package versions give the same files byte for byte.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image

KINDS = ('imagenet', 'photos', 'scenes', 'crops')
CLASSES = tuple(f'digit_{digit}' for digit in range(10))
MANIFEST = 'demo_data.json'
# raised whenever the generated files change
VERSION = 2
TRAIN_CROPS, VAL_CROPS = 1600, 320
TRAIN_DIGITS = 1500

# photographs that the scikit-image wheel carries; drawings, microscope drawings and text are left out
_PHOTOS = (
    'astronaut.png',
    'brick.png',
    'camera.png',
    'chelsea.png',
    'coffee.png',
    'coins.png',
    'grass.png',
    'gravel.png',
    'hubble_deep_field.jpg',
    'ihc.png',
    'moon.png',
    'motorcycle_left.png',
    'retina.jpg',
    'rocket.jpg',
)


def make_demo_data(
    directory: str | os.PathLike, seed: int = 0, kinds: Sequence[str] = KINDS, size: int = 48
) -> Path:
    """Write the demo data, or reuse what is there.

    Args:
        directory: is made; what is missing of ``kinds`` is added to demo data of the same seed and size.
        seed: of all draws.
        kinds: of 'imagenet' (``imagenet/{train,val}/digit_0..9/*.jpg``: 1,500 and 297 images, no digit in
            both), 'photos' (``photos/*.jpg``, flat, without labels), 'scenes' (see
            :mod:`mmssl.data.demo_scenes`) and 'crops' (``crops/{train,val}/<photograph>/*.jpg``: 1,600 pieces
            from the left and 320 from the right of the photographs).
        size: side of the images in ``imagenet`` and ``crops``, pixels.

    Returns:
        the directory.

    Raises:
        ValueError: unknown kind, size too small, or the directory holds something else.
        ImportError: scikit-learn or scikit-image is missing.
    """
    from mmssl.data.demo_scenes import write_scenes

    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise ValueError(f'kinds={tuple(kinds)!r}: choose from {", ".join(KINDS)}')
    if size < 16:
        raise ValueError(f'size={size} is too small to show a digit; take 16 pixels or more')
    directory = Path(directory).expanduser()
    identity = dict(generator='mmssl demo-data', version=VERSION, seed=seed, size=size)
    present = _present_kinds(directory, identity)
    missing = [kind for kind in KINDS if kind in kinds and kind not in present]
    if not missing:
        return directory
    photos, digits, labels = load_photos(), *load_digits()
    order = np.random.default_rng(seed).permutation(len(digits))
    split = dict(train=order[:TRAIN_DIGITS], val=order[TRAIN_DIGITS:])
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f'.{directory.name}-', dir=directory.parent))
    try:
        for kind in missing:
            # one generator a kind: each is the same whether it is made alone or with the others
            rng = np.random.default_rng([seed, KINDS.index(kind)])
            if kind == 'imagenet':
                _write_imagenet(temporary / kind, rng, photos, digits, labels, split, size)
            elif kind == 'photos':
                _write_photos(temporary / kind, photos)
            elif kind == 'crops':
                _write_crops(temporary / kind, rng, photos, size)
            else:
                write_scenes(temporary / kind, rng, photos, digits, labels, split)
        packages = {name: version(name) for name in ('scikit-learn', 'scikit-image', 'pillow', 'numpy')}
        manifest = dict(
            identity, kinds=[kind for kind in KINDS if kind in present or kind in missing], packages=packages
        )
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=2) + '\n')
        temporary.chmod(0o755)
        if present:
            for name in (*missing, MANIFEST):
                os.replace(temporary / name, directory / name)
        else:
            os.rename(temporary, directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return directory


def load_photos() -> dict[str, np.ndarray]:
    """The photographs of the installed packages: name -> (H, W, 3) uint8, RGB."""
    try:
        import skimage
        import sklearn
    except ImportError as error:
        raise ImportError(
            f'the demo data is made of what scikit-learn and scikit-image carry, and {error.name} is missing: '
            "pip install 'mmssl[demo]'"
        ) from None
    paths = [Path(skimage.__file__).parent / 'data' / name for name in _PHOTOS]
    paths += [
        Path(sklearn.__file__).parent / 'datasets' / 'images' / name for name in ('china.jpg', 'flower.jpg')
    ]
    photos = {path.stem: np.asarray(Image.open(path).convert('RGB')) for path in paths if path.is_file()}
    if len(photos) < 4:
        raise ImportError(
            f'only {len(photos)} photographs found in {paths[0].parent} and {paths[-1].parent}: '
            'pip install --force-reinstall scikit-image scikit-learn'
        )
    return photos


def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """Handwritten digits of scikit-learn: (1797, 8, 8) in [0, 1] and (1797,) labels."""
    from sklearn.datasets import load_digits as load

    data = load()
    return data.images / 16, data.target


def digit_mask(digit: np.ndarray, height: int, angle: float = 0.0) -> np.ndarray:
    """Enlarge a digit to a smooth shape.

    Args:
        digit: (8, 8) in [0, 1].
        height: of the result before it is cut to the ink, pixels.
        angle: turn, degrees.

    Returns:
        (h, w) ink in [0, 1], cut to its bounding box.
    """
    # padded, so that ink at the rim of the 8x8 cell fades out as well
    ink = Image.fromarray(np.pad(digit, 1).astype(np.float32))
    side = round(height * 10 / 8)
    ink = np.asarray(
        ink.resize((side, side), Image.Resampling.BICUBIC).rotate(angle, Image.Resampling.BICUBIC)
    )
    # a steep ramp: the enlarged grey levels become a stroke with a soft edge
    softness = min(0.25, 2.5 / height)
    ink = np.clip((ink - 0.45) / (2 * softness) + 0.5, 0, 1)
    rows, columns = np.flatnonzero(ink.max(axis=1) > 0.5), np.flatnonzero(ink.max(axis=0) > 0.5)
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def photo_crop(
    rng: np.random.Generator, photos: dict[str, np.ndarray], width: int, height: int
) -> np.ndarray:
    """A random crop of a random photograph, (height, width, 3) float32 in [0, 255]; enlarged at most twice."""
    photo = photos[sorted(photos)[rng.integers(len(photos))]]
    most = min(photo.shape[0] / height, photo.shape[1] / width)
    factor = rng.uniform(min(0.5, most), min(most, 4.0))
    crop_height, crop_width = max(1, int(height * factor)), max(1, int(width * factor))
    top = rng.integers(photo.shape[0] - crop_height + 1)
    left = rng.integers(photo.shape[1] - crop_width + 1)
    crop = photo[top : top + crop_height, left : left + crop_width]
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    return np.asarray(
        Image.fromarray(np.ascontiguousarray(crop)).resize((width, height), Image.Resampling.BICUBIC),
        dtype=np.float32,
    )


def paint(rng: np.random.Generator, canvas: np.ndarray, ink: np.ndarray, left: int, top: int) -> None:
    """Paint ink in a random colour that stands out from what lies below it.

    Args:
        rng: draws the colour.
        canvas: (H, W, 3) float32 in [0, 255], changed in place.
        ink: (h, w) in [0, 1].
        left: column of the ink's left edge.
        top: row of the ink's upper edge.
    """
    area = canvas[top : top + ink.shape[0], left : left + ink.shape[1]]
    luma = np.array([0.299, 0.587, 0.114], dtype=np.float32)
    below = float((area @ luma)[ink > 0.5].mean())
    colour = rng.uniform(0, 255, 3).astype(np.float32)
    # the colour keeps its hue and moves to a lightness well above or below the background's
    target = below + 130 if below < 110 or (below < 145 and rng.random() < 0.5) else below - 130
    colour = np.clip(colour + (target - float(colour @ luma)), 0, 255)
    area += ink[..., None] * (colour - area)


def save_jpeg(path: Path, canvas: np.ndarray, quality: int = 95) -> None:
    """Write (H, W, 3) values in [0, 255]; full colour resolution, because thin coloured strokes suffer from less."""
    Image.fromarray(np.clip(np.rint(canvas), 0, 255).astype(np.uint8)).save(
        path, quality=quality, subsampling=0
    )


def _present_kinds(directory: Path, identity: dict) -> list[str]:
    """Kinds that are there already, made by the same generator; raises ValueError if the directory holds anything else."""
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return []
    if not (directory / MANIFEST).is_file():
        raise ValueError(f'{directory} is there and holds no demo data; name a new or empty folder')
    manifest = json.loads((directory / MANIFEST).read_text())
    different = [
        f'{key} {manifest.get(key)!r} instead of {value!r}'
        for key, value in identity.items()
        if manifest.get(key) != value
    ]
    if different:
        raise ValueError(
            f'{directory} holds other demo data ({", ".join(different)}); remove it or name another folder'
        )
    return [kind for kind in manifest['kinds'] if (directory / kind).is_dir()]


def _write_imagenet(
    root: Path,
    rng: np.random.Generator,
    photos: dict,
    digits: np.ndarray,
    labels: np.ndarray,
    split: dict,
    size: int,
) -> None:
    for name, indices in split.items():
        for folder in CLASSES:
            (root / name / folder).mkdir(parents=True)
        for index in indices:
            canvas = photo_crop(rng, photos, size, size)
            # pale backgrounds and dark ones alike, so that brightness tells nothing about the digit
            canvas = canvas * rng.uniform(0.6, 1.0) + rng.uniform(0, 40)
            ink = digit_mask(digits[index], round(size * rng.uniform(0.55, 0.9)), rng.uniform(-12, 12))[
                :size, :size
            ]
            left, top = int(rng.integers(size - ink.shape[1] + 1)), int(rng.integers(size - ink.shape[0] + 1))
            paint(rng, canvas, ink, left, top)
            save_jpeg(root / name / CLASSES[labels[index]] / f'{index:04d}.jpg', canvas)


def _write_photos(root: Path, photos: dict) -> None:
    root.mkdir()
    for name, photo in photos.items():
        Image.fromarray(photo).save(root / f'{name}.jpg', quality=92)


def _write_crops(root: Path, rng: np.random.Generator, photos: dict, size: int) -> None:
    """Pieces of photographs, labelled by the photograph; training pieces come from the left of it, the others from the right.

    Pale, and of random brightness and contrast, so that structure more than colour tells them apart.
    """
    names = sorted(photos)
    for split, count, low, high in (('train', TRAIN_CROPS, 0.0, 0.62), ('val', VAL_CROPS, 0.66, 1.0)):
        for name in names:
            (root / split / name).mkdir(parents=True)
        for number in range(count):
            name = names[number % len(names)]
            photo = photos[name]
            left, right = int(photo.shape[1] * low), int(photo.shape[1] * high)
            side = int(min(size * rng.uniform(1, 3), photo.shape[0], right - left))
            x, y = left + rng.integers(right - left - side + 1), rng.integers(photo.shape[0] - side + 1)
            piece = Image.fromarray(np.ascontiguousarray(photo[y : y + side, x : x + side]))
            pixels = np.asarray(piece.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32)
            grey = pixels.mean(axis=2, keepdims=True)
            pale = grey + 0.3 * (pixels - grey)
            canvas = (pale - grey.mean()) / (grey.std() + 8) * rng.uniform(25, 55) + rng.uniform(80, 170)
            save_jpeg(root / split / name / f'{number:04d}.jpg', canvas)
