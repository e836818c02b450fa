"""Demo data generated from installed packages: scikit-learn's handwritten digits over photographs.

The photographs are those of scikit-image and scikit-learn. The same seed and package versions give the same
files byte for byte.
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

from mmssl.data.demo_parts import CLASSES, digit_mask, paint, photo_crop, save_jpeg
from mmssl.data.demo_scenes import write_scenes

KINDS = ('imagenet', 'photos', 'scenes', 'crops')
MANIFEST = 'demo_data.json'
# increased whenever the generated files change
VERSION = 2
TRAIN_CROPS, VAL_CROPS = 1600, 320
TRAIN_DIGITS = 1500

# photographs in the scikit-image wheel; its drawings and images of text are left out
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
    """Generate the demo data, keeping the parts that exist already.

    Args:
        directory: Folder to create, or a folder with demo data of the same seed and size, to which the
            missing ``kinds`` are added.
        seed: Seed of all random draws.
        kinds: Parts to generate: 'imagenet' (``imagenet/{train,val}/digit_0..9/*.jpg``: 1,500 and 297 images,
            with disjoint digits), 'photos' (``photos/*.jpg``, flat, without labels), 'scenes' (see
            :mod:`mmssl.data.demo_scenes`) and 'crops' (``crops/{train,val}/<photograph>/*.jpg``: 1,600 crops
            of the left part and 320 of the right part of the photographs).
        size: Side in pixels of the images in ``imagenet`` and ``crops``.

    Returns:
        The directory.

    Raises:
        ValueError: A kind is unknown, the size is too small, or the directory holds something else.
        ImportError: scikit-learn or scikit-image is missing.
    """
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
            # a generator per kind, so that a kind does not depend on which others are generated
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
    """Load the photographs of the installed packages: name -> (H, W, 3) uint8, RGB."""
    try:
        import skimage
        import sklearn
    except ImportError as error:
        raise ImportError(
            f'the demo data is generated from images in scikit-learn and scikit-image, and {error.name} is '
            "missing: pip install 'mmssl[demo]'"
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
    """Load scikit-learn's handwritten digits: (1797, 8, 8) in [0, 1] and (1797,) labels."""
    from sklearn.datasets import load_digits as load

    data = load()
    return data.images / 16, data.target


def _present_kinds(directory: Path, identity: dict) -> list[str]:
    """Return the kinds that exist already; raise ValueError if the directory holds anything else."""
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return []
    if not (directory / MANIFEST).is_file():
        raise ValueError(f'{directory} exists and holds no demo data; name a new or empty folder')
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
            # pale and dark backgrounds, so that brightness says nothing about the digit
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
    """Write crops labeled with their photograph: from its left part for training, else from its right.

    The crops are desaturated and have random brightness and contrast, so that structure more than color
    separates the classes.
    """
    names = sorted(photos)
    for split, count, low, high in (('train', TRAIN_CROPS, 0.0, 0.62), ('val', VAL_CROPS, 0.66, 1.0)):
        for name in names:
            (root / split / name).mkdir(parents=True)
        for index in range(count):
            name = names[index % len(names)]
            photo = photos[name]
            left, right = int(photo.shape[1] * low), int(photo.shape[1] * high)
            side = int(min(size * rng.uniform(1, 3), photo.shape[0], right - left))
            x, y = left + rng.integers(right - left - side + 1), rng.integers(photo.shape[0] - side + 1)
            crop = Image.fromarray(np.ascontiguousarray(photo[y : y + side, x : x + side]))
            pixels = np.asarray(crop.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32)
            gray = pixels.mean(axis=2, keepdims=True)
            pale = gray + 0.3 * (pixels - gray)
            canvas = (pale - gray.mean()) / (gray.std() + 8) * rng.uniform(25, 55) + rng.uniform(80, 170)
            save_jpeg(root / split / name / f'{index:04d}.jpg', canvas)
