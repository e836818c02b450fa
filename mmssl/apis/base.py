"""What the inferencers share: where images come from, batches, progress, files of results.

The hosts' inferencers look for ``LoadImageFromFile`` in the pipeline and refuse ours, take every file of a
folder for an image, and keep all predictions and pictures in memory until the end. Here the data go the way
of ``mmssl test``: the pipeline of the config's test data, then ``model.test_step``, so that the results are
equal.
"""

import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import torch
    from mmengine.config import Config
    from PIL import Image

ORDERS = ('BGR', 'RGB')


class Source(NamedTuple):
    """An image: its place in the inputs, its file or its pixels (H, W, 3) BGR, and the name of its results."""

    number: int
    path: Path | None
    pixels: np.ndarray | None
    name: str


def find_sources(inputs: Any, image_format: str = 'BGR') -> list[Source]:
    """Images by file, folder, array, Pillow image, or a list of any of these; nothing is read yet.

    Args:
        inputs: the images. Folders are searched with their subfolders, hidden files are left out.
        image_format: order of the channels in arrays, 'BGR' as ``cv2.imread`` and the hosts' inferencers have
            it, or 'RGB'. Pillow images know theirs.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no images, a folder without one, an array of another shape.
        TypeError: nothing that is an image, an array of another type.
    """
    from PIL import Image

    from mmssl.promptable.predictor import check_image

    if image_format not in ORDERS:
        raise ValueError(
            f"image_format={image_format!r}; give 'BGR' or 'RGB', the order of the channels of arrays"
        )
    found: list[Path | np.ndarray] = []
    for item in inputs if isinstance(inputs, (list, tuple)) else [inputs]:
        if isinstance(item, (str, os.PathLike)):
            found += _files(Path(os.path.expanduser(item)))
        elif isinstance(item, Image.Image):
            found.append(np.ascontiguousarray(np.asarray(item.convert('RGB'))[..., ::-1]))
        elif isinstance(item, np.ndarray):
            if item.ndim == 4:
                raise ValueError(f'an array of shape {item.shape} holds several images; give list(array)')
            check_image(item)
            found.append(np.ascontiguousarray(item if image_format == 'BGR' else item[..., ::-1]))
        else:
            raise TypeError(
                f'an image of type {type(item).__name__}; give a path, a folder, an array (H, W, 3) of uint8, a Pillow image, '
                'or a list of these'
            )
    if not found:
        raise ValueError('an empty list: there is no image in it')
    return [
        Source(
            number,
            item if isinstance(item, Path) else None,
            item if isinstance(item, np.ndarray) else None,
            name,
        )
        for number, (item, name) in enumerate(zip(found, _names(found), strict=True))
    ]


def _files(path: Path) -> list[Path]:
    from mmssl.hints import nearest_path
    from mmssl.promptable.annotations import images_below

    if not path.exists():
        raise FileNotFoundError(f'{path} does not exist{nearest_path(path)}')
    if not path.is_dir():
        return [path]
    files = images_below(path)
    if not files:
        raise ValueError(f'{path} holds no image' + ('' if any(path.iterdir()) else ': it is empty'))
    return files


def _names(found: Sequence[Path | np.ndarray]) -> list[str]:
    """A name each: of files their stems, or their paths below the folder that they share where stems are the same; numbers of arrays."""
    from mmssl.promptable.annotations import output_names, unique

    paths = unique(item for item in found if isinstance(item, Path))
    of_path = (
        dict(zip((path.resolve() for path in paths), output_names(paths)[1], strict=True)) if paths else {}
    )
    names, taken = [], set()
    for number, item in enumerate(found):
        name = of_path[item.resolve()] if isinstance(item, Path) else f'{number:06d}'
        while name.casefold() in taken:  # the same file twice, or a file named as a number
            name += '_'
        taken.add(name.casefold())
        names.append(name)
    return names


class Inferencer:
    """One way of working for all systems; see the subclasses.

    Args:
        config: a name of :func:`mmssl.apis.list_models`, a path, or a ``mmengine.Config``.
        checkpoint: file with the weights; with None they are random, which is said in a warning.
        device: 'cpu', 'cuda', 'cuda:1', ...; a GPU where there is one when None.
        trust: load a checkpoint that holds pickled code.

    Attributes:
        model: in evaluation mode.
        device: where it is.
        classes: names of the classes, () for models without.
    """

    model: Any
    cfg: 'Config'
    classes: tuple[str, ...] = ()

    def __init__(
        self, config, checkpoint: str | os.PathLike | None = None, device: Any = None, trust: bool = False
    ):
        import warnings

        from mmssl.apis.models import find_weights, read_config, scope_of

        self.device = pick_device(device)
        self.cfg, entry = read_config(config)
        self.check_config(entry.name)
        path = find_weights(checkpoint, entry)
        if path is None:
            warnings.warn(f'{entry.name} runs with random weights: no checkpoint was given', stacklevel=3)
        with scope_of(self.cfg):
            self.prepare(path, trust)
        self.model.to(self.device).eval()

    def class_name(self, label: int) -> str:
        """Name of a class, its number where it has none."""
        return self.classes[label] if label < len(self.classes) else str(int(label))

    def check_config(self, name: str) -> None:
        """ValueError where the config is of another system."""

    def prepare(self, checkpoint: str | None, trust: bool) -> None:
        """Make ``self.model`` and what reads its images."""
        raise NotImplementedError

    def predict(self, sources: Sequence[Source], files: Sequence[Path], **options) -> list[dict]:
        """Results of some images, whose pixels are in ``files``; ``options`` are of the call."""
        raise NotImplementedError

    def save(self, source: Source, file: Path, result: dict, folder: Path) -> None:
        """Write the pictures of a result below a folder."""

    def __call__(
        self,
        inputs: Any,
        batch_size: int = 1,
        out_dir: str | os.PathLike | None = None,
        image_format: str = 'BGR',
        progress: bool | None = None,
    ) -> list[dict]:
        """Results of images, in their order.

        Args:
            inputs: a file, a folder (with its subfolders), an array (H, W, 3) of uint8, a Pillow image, or a
                list of any of these.
            batch_size: images at once; images of different sizes are not mixed, so that it changes no result.
            out_dir: ``predictions/NAME.json`` and ``pictures/NAME.png`` are written here as the images come;
                NAME is that of the file, or the number of an array.
            image_format: order of the channels of arrays, 'BGR' (as ``cv2.imread`` and the hosts have it) or
                'RGB'.
            progress: show a progress line; None shows it on a terminal.

        Returns:
            a dict an image, with 'img_path' (None for arrays) and what the system finds.

        Raises:
            FileNotFoundError: no such file; named.
            ValueError: a folder without images, an image that cannot be read; named.
            TypeError: something that is no image.
        """
        return list(self.stream(inputs, batch_size, out_dir, image_format, progress))

    def stream(
        self,
        inputs: Any,
        batch_size: int = 1,
        out_dir: str | os.PathLike | None = None,
        image_format: str = 'BGR',
        progress: bool | None = None,
    ) -> Iterator[dict]:
        """As calling it, one result after the other: memory does not grow with the number of images."""
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f'batch_size={batch_size!r} must be a whole number above 0')
        sources = find_sources(inputs, image_format)
        return self._results(sources, batch_size, None if out_dir is None else Path(out_dir), progress)

    def _results(
        self, sources: list[Source], batch_size: int, out_dir: Path | None, progress: bool | None, **options
    ) -> Iterator[dict]:
        from tqdm import tqdm

        from mmssl.apis.models import scope_of

        hidden = not (sys.stderr.isatty() if progress is None else progress)
        with (
            tempfile.TemporaryDirectory(prefix='mmssl-') as folder,
            tqdm(total=len(sources), desc='images', unit='image', disable=hidden, file=sys.stderr) as bar,
        ):
            for start in range(0, len(sources), batch_size):
                some = sources[start : start + batch_size]
                files = [self._file(source, folder) for source in some]
                with scope_of(self.cfg):
                    results = self.predict(some, files, **options)
                for source, file, result in zip(some, files, results, strict=True):
                    result = {'img_path': None if source.path is None else str(source.path), **result}
                    if out_dir is not None:
                        self.save(source, file, result, out_dir)
                        write_json(
                            out_dir / 'predictions' / f'{source.name}.json', result, self.in_json(result)
                        )
                    if source.path is None:
                        file.unlink()
                    bar.update()
                    yield result

    def _file(self, source: Source, folder: str) -> Path:
        """The file of an image; arrays are written without loss, so that they go through the same pipeline."""
        import cv2

        if source.path is not None:
            return source.path
        assert source.pixels is not None  # one of the two
        path = Path(folder) / f'{source.name}.bmp'
        if not cv2.imwrite(str(path), source.pixels):
            raise OSError(f'{path} cannot be written')
        return path

    def in_json(self, result: dict) -> dict:
        """What of a result stands in its JSON file."""
        return result


class HostInferencer(Inferencer):
    """A model of a host toolbox with the pipeline of its test data."""

    def build(self, checkpoint: str | None, trust: bool, whole: bool = True) -> dict:
        """Make the model and the pipeline; returns what the checkpoint holds.

        Args:
            checkpoint: file, or None.
            trust: as for ``mmssl.checkpoint.load_file``.
            whole: the checkpoint has to hold all weights; else the backbone's may do.
        """
        from mmssl.checkpoint import load_file, load_weights, strip_module, weights_of
        from mmssl.commands.features import init_weights, load_backbone, model_of

        self.model, _ = model_of(self.cfg)
        self.steps = self.test_steps()
        if checkpoint is None:
            init_weights(self.model)
            return {}
        if not whole:
            load_backbone(self.model, checkpoint, trust)
            return load_file(checkpoint, trust=trust, mmap=True)
        content = load_file(checkpoint, trust=trust)
        report = load_weights(
            self.model, dict(strip_module(weights_of(content, checkpoint))), logger='silent'
        )
        if report.missing or report.mismatched:
            raise ValueError(f'{checkpoint} is not the checkpoint of this model:\n{report}')
        return content

    def need(self, scope: str, kind: str, system: str, name: str) -> None:
        """ValueError where a config is of another scope, or has no data to test on, whose pipeline reads the images."""
        if self.cfg.get('default_scope') != scope:
            raise ValueError(
                f'{name} is of no {kind} (default_scope={self.cfg.get("default_scope")!r}); '
                f'mmssl.apis.list_models(system={system!r}) has names of some'
            )
        if not self.test_dataset().get('pipeline'):
            raise ValueError(
                f'{name} has no test_dataloader, whose pipeline reads images; give the config that the run was started with'
            )

    def test_dataset(self) -> dict:
        """Settings of the data set that is tested on, or validated on; {} without one."""
        dataset = (self.cfg.get('test_dataloader') or self.cfg.get('val_dataloader') or {}).get(
            'dataset'
        ) or {}
        while 'dataset' in dataset:
            dataset = dataset['dataset']
        return dataset

    def test_steps(self) -> list:
        """The built pipeline of the test data without the loading of labels."""
        from mmengine.registry import TRANSFORMS

        labels = ('LoadAnnotations', 'LoadLabelMap', 'LoadPanopticAnnotations')
        return [
            TRANSFORMS.build(step)
            for step in self.test_dataset().get('pipeline') or []
            if str(step['type'] if isinstance(step['type'], str) else step['type'].__name__).rpartition('.')[
                2
            ]
            not in labels
        ]

    def meta(self, checkpoint: dict, count: int | None) -> dict:
        """Names and colours of the classes: of the checkpoint, of the data set's settings, of its class; numbers where nobody knows."""
        from mmengine.registry import DATASETS

        dataset = self.test_dataset()
        kind = DATASETS.get(dataset['type']) if isinstance(dataset.get('type'), str) else dataset.get('type')
        meta = checkpoint.get('meta') if isinstance(checkpoint, dict) else None
        found = ((meta or {}).get('dataset_meta'), dataset.get('metainfo'), getattr(kind, 'METAINFO', None))
        for known in found:
            names = (known or {}).get('classes')
            names = [names] if isinstance(names, str) else list(names or ())
            if names and count in (None, len(names)):
                return {
                    'classes': tuple(names),
                    'palette': next(
                        (
                            other['palette']
                            for other in (known, *found)
                            if other and len(other.get('palette') or ()) == len(names)
                        ),
                        None,
                    ),
                }
        return {'classes': tuple(map(str, range(count or 0))), 'palette': None}

    def read(self, file: Path, number: int) -> dict:
        """An image through the pipeline; ValueError naming the file where it is none."""
        from mmssl.data.images import BadImageError

        results: Any = dict(img_path=str(file), img_id=number, seg_fields=[], sample_idx=number)
        try:
            for step in self.steps:
                results = step(results)
                if results is None:
                    raise BadImageError('cannot be decoded', str(file))
        except AssertionError:  # what the hosts say to bytes that are no image
            raise BadImageError('cannot be decoded', str(file)) from None
        return results

    def test(self, files: Sequence[Path]) -> list:
        """What ``model.test_step`` says to images, those of one size together, in the order of the files."""
        import torch

        samples = [self.read(file, number) for number, file in enumerate(files)]
        by_shape: dict[tuple, list[int]] = {}
        for number, sample in enumerate(samples):
            by_shape.setdefault(tuple(sample['inputs'].shape), []).append(number)
        found: dict[int, Any] = {}
        with torch.no_grad():
            for numbers in by_shape.values():
                batch = dict(
                    inputs=[samples[number]['inputs'] for number in numbers],
                    data_samples=[samples[number]['data_samples'] for number in numbers],
                )
                found.update(zip(numbers, self.run(batch), strict=True))
        return [found[number] for number in range(len(files))]

    def run(self, batch: dict) -> Sequence:
        """Results of a batch of one size."""
        return self.model.test_step(batch)


def pick_device(name: Any) -> 'torch.device':
    """The device of a name, the GPU where there is one when None; ValueError where this machine has none of that name."""
    from mmssl.commands.features import pick_device as of_command

    try:
        return of_command(None if name is None else str(name))
    except ValueError as error:
        raise ValueError(str(error).replace('--device ', 'device ')) from None


def read_rgb(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 of an image file, upright; errors that name it."""
    from mmssl.commands.prompting import read_rgb as read

    return read(path)


def write_picture(picture: 'Image.Image', path: Path) -> None:
    """Write a PNG file whole or not at all; its folder is made."""
    from mmssl.commands.segment import write_picture as write

    write(picture, path)


def write_json(path: Path, result: dict, shown: dict) -> None:
    """Write a result, arrays as lists, whole or not at all."""
    from mmssl.checkpoint import write_text

    def plain(value):
        if isinstance(value, np.ndarray):
            return value.tolist()
        if isinstance(value, np.generic):
            return value.item()
        return os.fspath(value)

    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(shown, default=plain) + '\n')
