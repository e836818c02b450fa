"""Images of folders, archives or lists as a data set, labeled by class folders or a table, if any."""

import os
from collections.abc import Callable, Sequence
from typing import Any

from mmengine.dataset import BaseDataset

from mmssl.data.bad_files import BadFiles, diagnose
from mmssl.data.find_images import find_images
from mmssl.data.listed import ImageList, list_images
from mmssl.data.missing import unknown_class
from mmssl.data.reader import count_pages
from mmssl.data.suffixes import IMAGE_SUFFIXES
from mmssl.errors import BadImageError, RemoteError
from mmssl.registry import DATASETS

__all__ = ['ImageFolder', 'find_images']


@DATASETS.register_module()
class ImageFolder(BaseDataset):
    """Data set of all images below a folder or in an archive, nested or flat, sorted by path.

    Hidden files are ignored; links to folders are followed once, except that each link right below the root
    is a class folder. ``data_root`` may be a zip file, an LMDB, tar shards or Parquet of such a folder, or
    lead into one (``photos.zip/inner``); it is read in place. It may be several folders, a pattern, a list or
    a table, see :func:`mmssl.data.listed.list_images`. If every image is in a class folder, the first one
    below the root, ``data_list`` has ``gt_label`` and the meta information has ``classes``.

    A file that does not decode is skipped: another sample is drawn from NumPy's global generator, as mmengine
    does for a pipeline that returns None, and the file is counted, see
    :class:`mmssl.data.bad_files.BadFiles`. In test mode it raises an error that names the file.

    Args:
        data_root: A folder, an archive of one, or what else :func:`mmssl.data.listed.list_images` takes; a
            list of folders.
        data_prefix: Folder below it. If 'train' does not exist and ``data_root`` itself holds the images,
            they are used; any other prefix must exist.
        pipeline: Transforms, as in mmengine's BaseDataset.
        extensions: Suffixes of images, in any case.
        labels: 'auto' takes labels from class folders if every image is in one of at least two; 'folder'
            requires every image to be in a class folder; None gives no labels.
        classes: Names of the class folders in the order of their labels; sorted if None. Folders that are not
            listed raise an error.
        max_bad_files: Number of undecodable files above which an error is raised.
        max_bad_fraction: Fraction of undecodable files above which an error is raised; three are always
            allowed.
        pages: 'images' makes every page of a TIFF, frame of a DICOM file or entry of a stack an image of
            its own.
        **kwargs: Passed on to mmengine's BaseDataset: indices, test_mode, serialize_data, lazy_init,
            max_refetch, metainfo.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: It contains no images, or the labels do not fit.
    """

    # mmpretrain's CustomDataset must be given whether labels exist, reads no archives, and ends the run at
    # the first bad file

    def __init__(  # noqa: PLR0913
        self,
        data_root: str | os.PathLike | Sequence[str],
        data_prefix: str | dict = '',
        pipeline: Sequence[dict | Callable] = (),
        extensions: Sequence[str] = IMAGE_SUFFIXES,
        labels: str | None = 'auto',
        classes: Sequence[str] | None = None,
        max_bad_files: int = 100,
        max_bad_fraction: float = 0.001,
        pages: str | None = None,
        **kwargs,
    ):
        if pages not in (None, 'images'):
            raise ValueError(
                f"pages={pages!r} must be 'images' or None; which page is loaded, and pages='channels', are "
                'settings of the loader transform'
            )
        self.pages = pages
        if labels not in ('auto', 'folder', None):
            raise ValueError(f"labels={labels!r} is not one of 'auto', 'folder', None")
        if not data_root:
            raise ValueError('data_root is empty: name the folder of images, for example with --data DIR')
        self.extensions = tuple(f'.{suffix.lower().lstrip(".")}' for suffix in extensions)
        self.labels = labels
        self.bad_files = BadFiles(max_bad_files, max_bad_fraction)
        self.image_root = ''
        self.classes_from_folders = classes is None and 'classes' not in (kwargs.get('metainfo') or {})
        if classes is not None:
            kwargs['metainfo'] = {**(kwargs.get('metainfo') or {}), 'classes': tuple(classes)}
        prefix = data_prefix if isinstance(data_prefix, str) else data_prefix.get('img_path', '')
        if not isinstance(data_root, (str, os.PathLike)):
            data_root = ','.join(map(os.fspath, data_root))
        super().__init__(
            data_root=os.path.expanduser(os.fspath(data_root)),
            data_prefix=dict(img_path=prefix),
            pipeline=list(pipeline),
            **kwargs,
        )

    @property
    def CLASSES(self) -> tuple[str, ...] | None:  # noqa: N802, read by metrics and tools of the toolboxes
        """Names of the classes; None without labels."""
        return self.metainfo.get('classes')

    def _join_prefix(self) -> None:
        """Keep ``data_prefix`` separate, so that a missing prefix differs from a missing root."""

    def load_data_list(self) -> list[dict]:
        """Scan the folder or archive.

        Returns:
            Dicts with ``img_path`` and, if there are labels, ``gt_label`` (int); with ``pages='images'`` also
            ``page`` (int).
        """
        images = list_images(self.data_root, self.data_prefix['img_path'], self.extensions)
        self.image_root = images.root
        data_list: list[dict[str, Any]] = [dict(img_path=f'{images.root}/{name}') for name in images.names]
        label_of = self._label_of_class(images)
        if label_of:
            for info, name in zip(data_list, images.classes, strict=True):
                info['gt_label'] = label_of[name]
        if self.pages == 'images':
            data_list = [
                {**info, 'page': page} for info in data_list for page in range(count_pages(info['img_path']))
            ]
        return data_list

    def _label_of_class(self, images: ImageList) -> dict[str | None, int] | None:
        """Return the label of each class, or None for no labels."""
        if self.labels is None:
            return None
        pairs = list(zip(images.names, images.classes, strict=True))
        outside = next((name for name, class_name in pairs if class_name is None), None)
        names = sorted({class_name for _, class_name in pairs if class_name is not None})
        if outside is not None or (self.labels == 'auto' and len(names) < 2):
            if self.labels == 'folder':
                raise ValueError(
                    f'{self.image_root}/{outside} is in no class folder; move it into one, or set labels=None'
                )
            return None
        classes = self._metainfo.setdefault('classes', tuple(names))
        unknown = next((name for name in names if name not in classes), None)
        if unknown is not None:
            raise ValueError(unknown_class(f'{self.image_root}/{unknown}', unknown, classes))
        return {name: label for label, name in enumerate(classes)}

    def use_classes(self, classes: Sequence[str]) -> None:
        """Number the class folders by these names instead of those that exist.

        Raises:
            ValueError: A folder is none of the classes.
        """
        self._metainfo['classes'] = tuple(classes)
        self._fully_initialized = False
        self.full_init()

    def get_cat_ids(self, idx: int) -> list[int]:
        """Return the labels of one image, for the toolboxes' class-balanced wrappers."""
        return [int(self.get_data_info(idx)['gt_label'])]

    def prepare_data(self, idx: int):
        """Run the pipeline; return None for a bad file, so that mmengine draws another sample.

        Raises:
            BadFilesError: More files are bad than allowed.
            BadImageError: The file is bad, in test mode.
            RemoteError: A file behind a URL cannot be read.
        """
        info = self.get_data_info(idx)
        path = info['img_path']
        try:
            return self.pipeline(info)
        except RemoteError:
            raise
        except BadImageError as error:
            reason = error.reason
            if self.test_mode:
                raise
        except Exception as error:
            # loaders of the toolboxes fail on bad files in many ways; decoding the file shows whether it is
            # bad
            diagnosis = diagnose(path)
            if diagnosis is None:
                if hasattr(error, 'add_note'):
                    error.add_note(f'while reading {path}')
                raise
            reason = diagnosis
            if self.test_mode:
                raise BadImageError(reason, path) from error
        self.bad_files.add(path, reason, len(self))
        return None
