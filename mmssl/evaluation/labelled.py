"""Labelled training and validation images of a folder or archive, as data loaders for evaluation."""

import os
import re
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mmssl.evaluation.linear import stratified_split

SPLITS = ('train', 'val')
VAL_FOLDERS = ('val', 'validation', 'valid', 'test')
# for class folders without a validation set
VAL_FRACTION = 0.2
SPLIT_SEED = 0


class LabelledImages(Dataset):
    """Dataset of images and labels as plain tensors, in which each image occurs once.

    Args:
        folder: A ``mmssl.ImageFolder`` with labels, whose pipeline returns 'img' (H, W, C).
        indices: Indices of the images to use; all if None.
    """

    # mmengine's datasets return data samples, and replace an image that cannot be read by another one

    def __init__(self, folder, indices: Tensor | None = None):
        self.folder = folder
        self.classes: tuple[str, ...] = folder.metainfo['classes']
        self.indices = torch.arange(len(folder)) if indices is None else indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Tensor, int] | None:
        """Return an image (C, H, W) as the loader has it, and its label; None for a file that is skipped."""
        results = self.folder.prepare_data(int(self.indices[index]))
        if results is None:
            return None
        return torch.from_numpy(results['img'].copy()).permute(2, 0, 1), int(results['gt_label'])

    @property
    def labels(self) -> Tensor:
        """(N,) int64 labels, without reading an image."""
        return torch.tensor(
            [self.folder.get_data_info(int(index))['gt_label'] for index in self.indices], dtype=torch.long
        )

    def take(self, count: int | None, seed: int = 0) -> 'LabelledImages':
        """Draw a subset in which the classes keep their proportions, with at least one image of each.

        Args:
            count: Number of images; None or a larger number than there are returns all.
            seed: Seed of the draw.
        """
        if count is None or count >= len(self):
            return self
        labels = self.labels
        if count < len(labels.unique()):
            raise ValueError(
                f'{count} images cannot contain all {len(labels.unique())} classes; take at least that many'
            )
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
        rank = torch.empty(len(labels), dtype=torch.double)
        for label in labels.unique():
            members = order[labels[order] == label]
            # the first image of each class comes first, then the classes in proportion
            rank[members] = torch.arange(len(members), dtype=torch.double) / len(members)
        subset = rank.sort(stable=True).indices[:count].sort().values
        return LabelledImages(self.folder, self.indices[subset])

    def take_labels(self, amount: str | None, seed: int = 0) -> 'LabelledImages':
        """Draw the labelled images of a low-shot evaluation, class by class.

        Args:
            amount: '1%' for a hundredth of each class, rounded and at least one image; '5' for five images of
                each class; None for all.
            seed: Seed of the draw. A larger amount contains a smaller one of the same seed.

        Raises:
            ValueError: The amount is neither, or a class has fewer images.
        """
        if amount is None:
            return self
        number, percent = parse_amount(amount)
        labels = self.labels
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
        chosen = []
        for label in labels.unique():
            members = order[labels[order] == label]
            count = max(1, round(len(members) * number / 100)) if percent else int(number)
            if count > len(members):
                raise ValueError(
                    f'{count} images of each class are requested, and {self.classes[int(label)]!r} has '
                    f'{len(members)}; request fewer, or a percentage'
                )
            chosen.append(members[:count])
        return LabelledImages(self.folder, self.indices[torch.cat(chosen).sort().values])


def parse_amount(amount: str) -> tuple[float, bool]:
    """Return the number of an amount of labels, '1%' or '5', and whether it is a percentage.

    Raises:
        ValueError: It is neither a percentage in (0, 100] nor a whole number above 0.
    """
    text, percent = amount.removesuffix('%'), amount.endswith('%')
    valid = re.fullmatch(r'\d+(\.\d+)?' if percent else r'\d+', text) and float(text) > 0
    if not valid or (percent and float(text) > 100):
        raise ValueError(
            f"{amount!r} is no amount of labels; give '1%' or '10%' of each class, or a number of images of "
            "each class such as '5'"
        )
    return float(text), percent


def _collate(samples: Sequence[tuple[Tensor, int] | None]) -> tuple[Tensor, Tensor]:
    readable = [sample for sample in samples if sample is not None]
    labels = torch.tensor([label for _, label in readable], dtype=torch.long)
    if not readable:
        return torch.empty(0, 3, 1, 1, dtype=torch.uint8), labels
    return torch.stack([image for image, _ in readable]), labels


def labelled_images(
    data: str, image_size: int = 224, **reading: Any
) -> tuple[LabelledImages, LabelledImages]:
    """Find the training and validation images of a dataset.

    Args:
        data: Folder or archive with ``train/<class>/`` and ``val/<class>/`` (or 'validation', 'valid',
            'test'), or with class folders only, of which a fixed fifth of each class becomes the validation
            set; this is logged. Shards, list files, tables and URLs may have the same folders in their paths;
            the label column of a table comes before its folders.
        image_size: Side of the central crop in pixels; the short edge is resized to 256 / 224 of it.
        **reading: value_range, channels, pages, channel_axis: see :class:`mmssl.data.reader.ImageReader`.

    Returns:
        Training and validation set, whose labels are indices of the classes of the training set.

    Raises:
        FileNotFoundError: The folder does not exist, or there are no validation images beside ``train``.
        ValueError: There are no images, images outside of class folders, a single class, or a class that the
            training set lacks.
    """
    from mmssl.data.folder import ImageFolder
    from mmssl.data.listed import list_images
    from mmssl.data.suffixes import IMAGE_SUFFIXES
    from mmssl.data.transforms import LoadCenterCrop

    data = os.path.expanduser(os.fspath(data))
    pipeline = [LoadCenterCrop(scale=image_size, **reading)]
    train = ImageFolder(data, 'train', pipeline, labels='folder')
    train.full_init()
    classes = train.metainfo['classes']
    if len(classes) < 2:
        raise ValueError(
            f'{train.image_root} has a single class ({classes[0]!r}); a classifier needs at least two class '
            'folders'
        )
    if _is_whole(data, train):
        return _split(train)
    for name in VAL_FOLDERS:
        try:
            list_images(data, name, IMAGE_SUFFIXES)
        except FileNotFoundError:
            continue
        val = ImageFolder(data, name, pipeline, labels='folder', classes=classes)
        val.full_init()
        return LabelledImages(train), LabelledImages(val)
    raise FileNotFoundError(
        f'{data} has train but none of {", ".join(VAL_FOLDERS)}; add one, or give '
        f'{os.path.join(data, "train")}, '
        'which is then split'
    )


def _is_whole(data: str, train) -> bool:
    """Return True if there is no training set: these are all images."""
    if os.path.isdir(data) and train.image_root == data.rstrip('/'):
        return True
    from mmssl.data.listed import list_images
    from mmssl.data.suffixes import IMAGE_SUFFIXES

    if os.path.isdir(os.path.join(data, 'train')):
        return False
    return len(list_images(data, '', IMAGE_SUFFIXES).names) == len(train)


def _split(folder) -> tuple[LabelledImages, LabelledImages]:
    """Split class folders without a validation set by a fixed draw."""
    images = LabelledImages(folder)
    train, val = stratified_split(images.labels, VAL_FRACTION, SPLIT_SEED)
    if not len(val):
        raise ValueError(
            f'no class of {folder.image_root} has two images, so that none can be held out for validation'
        )
    print_log(
        f'{folder.image_root} has no train and val: every class is split by a fixed draw, {len(train)} '
        'images to '
        f'train and {len(val)} to validate',
        logger='current',
    )
    return LabelledImages(folder, train), LabelledImages(folder, val)


def image_loader(images: LabelledImages, batch_size: int = 64, num_workers: int = 2) -> DataLoader:
    """Load batches (B, 3, H, W), uint8, BGR, with labels (B,), in order; global generators are not used."""
    return DataLoader(
        images,
        batch_size=batch_size,
        num_workers=num_workers,
        collate_fn=_collate,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator().manual_seed(0),
    )


def labelled_loader(
    data: str, image_size: int = 224, split: str = 'train', batch_size: int = 64, num_workers: int = 2
) -> DataLoader:
    """Load the images of a split.

    Args:
        data: Folder or archive, see :func:`labelled_images`.
        image_size: Side of the central crop in pixels.
        split: 'train' or 'val'.
        batch_size: Number of images per batch.
        num_workers: Number of worker processes.

    Raises:
        FileNotFoundError: As in :func:`labelled_images`.
        ValueError: As in :func:`labelled_images`, or the split is unknown.
    """
    if split not in SPLITS:
        raise ValueError(f'unknown split {split!r}; choose one of {", ".join(SPLITS)}')
    return image_loader(labelled_images(data, image_size)[SPLITS.index(split)], batch_size, num_workers)
