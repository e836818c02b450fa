"""Base class of the inferencers: images in, results out, one after the other.

The toolboxes' inferencers look for ``LoadImageFromFile`` in the pipeline and refuse others, take every file
of a folder for an image, and keep all predictions and drawings in memory until the end.
"""

import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmssl.apis.loading import pick_device
from mmssl.apis.sources import Source, find_sources

if TYPE_CHECKING:
    from mmengine.config import Config

    from mmssl.data.pictures import PictureSettings


class Inferencer:
    """Base class of the inferencers of all systems.

    Args:
        config: A name of :func:`mmssl.apis.list_models`, a path, or a ``mmengine.Config``.
        checkpoint: File with the weights; None for random weights, with a warning.
        device: 'cpu', 'cuda', 'cuda:1', ...; a GPU if there is one when None.
        trust: Load a checkpoint that contains pickled code.

    Attributes:
        model: The model, in evaluation mode.
        device: Its device.
        classes: Names of the classes; () for models without classes.
        pictures: How images that are not 8-bit RGB are drawn.
    """

    model: Any
    cfg: 'Config'
    pictures: 'PictureSettings'
    classes: tuple[str, ...] = ()

    def __init__(
        self,
        config: 'str | os.PathLike | Config',
        checkpoint: str | os.PathLike | None = None,
        device: Any = None,
        trust: bool = False,
    ):
        import warnings

        from mmssl.apis.models import find_weights, read_config, scope_of
        from mmssl.data.pictures import settings_of_config
        from mmssl.data.reader_settings import reader_settings

        self.device = pick_device(device)
        self.cfg, entry = read_config(config)
        self.check_config(entry.name)
        self.pictures = settings_of_config(reader_settings(self.cfg))
        path = find_weights(checkpoint, entry)
        if path is None:
            warnings.warn(f'{entry.name} runs with random weights: no checkpoint was given', stacklevel=3)
        with scope_of(self.cfg):
            self.prepare(path, trust)
        self.model.to(self.device).eval()

    def class_name(self, label: int) -> str:
        """Return the name of a class, or its number if it has no name."""
        return self.classes[label] if label < len(self.classes) else str(int(label))

    def check_config(self, name: str) -> None:
        """Raise ValueError if the config belongs to another system."""

    def prepare(self, checkpoint: str | None, trust: bool) -> None:
        """Create ``self.model`` and what reads its images."""
        raise NotImplementedError

    def predict(self, sources: Sequence[Source], files: Sequence[Path], **options: Any) -> list[dict]:
        """Return the results of a batch of images.

        Args:
            sources: The images.
            files: A file with the pixels of each.
            **options: Options of the call that not all inferencers have.
        """
        raise NotImplementedError

    def save(self, source: Source, file: Path, result: dict, folder: Path) -> None:
        """Write drawings of a result below a folder."""

    def __call__(
        self,
        inputs: Any,
        batch_size: int = 1,
        out_dir: str | os.PathLike | None = None,
        image_format: str = 'BGR',
        progress: bool | None = None,
    ) -> list[dict]:
        """Return the results of images, in their order.

        Args:
            inputs: A file, a folder (searched with its subfolders), an array (H, W, 3) of uint8, a Pillow
                image, or a list of these.
            batch_size: Images per forward pass. Images of different sizes are not mixed, so that it does not
                change any result.
            out_dir: Folder that gets ``predictions/NAME.json`` and ``pictures/NAME.png`` as the images are
                processed; NAME is the stem of the file, or the index of an array.
            image_format: Order of the channels of arrays: 'BGR', as of ``cv2.imread`` and the toolboxes, or
                'RGB'.
            progress: Show a progress line; None shows it on a terminal.

        Returns:
            One dict per image, with 'img_path' (None for arrays) and the results of the system.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: A folder has no images, or an image cannot be read.
            TypeError: An input is not an image.
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
        """Yield the results one after the other, so that memory does not grow with the number of images.

        Args:
            inputs: As for calling the inferencer.
            batch_size: As for calling the inferencer.
            out_dir: As for calling the inferencer.
            image_format: As for calling the inferencer.
            progress: As for calling the inferencer.
        """
        check_batch_size(batch_size)
        sources = find_sources(inputs, image_format)
        return self._results(sources, batch_size, None if out_dir is None else Path(out_dir), progress)

    def _results(
        self,
        sources: list[Source],
        batch_size: int,
        out_dir: Path | None,
        progress: bool | None,
        **options: Any,
    ) -> Iterator[dict]:
        from tqdm import tqdm

        from mmssl.apis.models import scope_of

        hidden = not (sys.stderr.isatty() if progress is None else progress)
        with (
            tempfile.TemporaryDirectory(prefix='mmssl-') as folder,
            tqdm(total=len(sources), desc='images', unit='image', disable=hidden, file=sys.stderr) as bar,
        ):
            for start in range(0, len(sources), batch_size):
                batch = sources[start : start + batch_size]
                files = [self._file(source, folder) for source in batch]
                with scope_of(self.cfg):
                    results = self.predict(batch, files, **options)
                for source, file, result in zip(batch, files, results, strict=True):
                    result = {'img_path': None if source.path is None else str(source.path), **result}
                    if out_dir is not None:
                        self.save(source, file, result, out_dir)
                        write_result(out_dir / 'predictions' / f'{source.name}.json', self.in_json(result))
                    if source.path is None:
                        file.unlink()
                    bar.update()
                    yield result

    def _file(self, source: Source, folder: str) -> Path:
        """Return the file of an image; arrays are written losslessly, so that all take the same pipeline."""
        import cv2

        if source.path is not None:
            return source.path
        assert source.pixels is not None  # one of the two is set
        path = Path(folder) / f'{source.name}.bmp'
        if not cv2.imwrite(str(path), source.pixels):
            raise OSError(f'{path} cannot be written')
        return path

    def in_json(self, result: dict) -> dict:
        """Return the part of a result that its JSON file contains."""
        return result


def check_batch_size(batch_size: int) -> None:
    """Raise ValueError unless the batch size is a positive integer."""
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f'batch_size={batch_size!r} must be a whole number above 0')


def write_result(path: Path, result: dict) -> None:
    """Write a result atomically as JSON, with arrays as lists."""
    from mmssl.checkpoint import write_text

    def as_plain(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return value.tolist()
        if isinstance(value, np.generic):
            return value.item()
        return os.fspath(value)

    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(result, default=as_plain) + '\n')
