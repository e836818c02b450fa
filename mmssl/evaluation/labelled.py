"""Labelled training and validation images out of a folder or archive, as data loaders for evaluation."""

import os
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

SPLITS = ('train', 'val')
VAL_FOLDERS = ('val', 'validation', 'valid', 'test')
SHARE, SPLIT_SEED = 0.2, 0  # of class folders without a validation set


class LabelledImages(Dataset):
    """Images with labels as plain tensors.

    The host's data set hands out data samples and draws another image for one that is bad; an evaluation
    counts every image once.

    Args:
        folder: a ``mmssl.ImageFolder`` with labels, whose pipeline leaves 'img' (H, W, 3).
        indices: which of its images; all when None.
    """

    def __init__(self, folder, indices: Tensor | None = None):
        self.folder = folder
        self.classes: tuple[str, ...] = folder.metainfo['classes']
        self.indices = torch.arange(len(folder)) if indices is None else indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Tensor, int] | None:
        """Image (3, H, W), uint8, BGR, and its label; None for a file that cannot be decoded, which the folder counts."""
        results = self.folder.prepare_data(int(self.indices[index]))
        if results is None:
            return None
        return torch.from_numpy(results['img'].copy()).permute(2, 0, 1), int(results['gt_label'])

    @property
    def labels(self) -> Tensor:
        """(N,) long, without reading an image."""
        return torch.tensor(
            [self.folder.get_data_info(int(index))['gt_label'] for index in self.indices], dtype=torch.long
        )

    def take(self, count: int | None, seed: int = 0) -> 'LabelledImages':
        """At most ``count`` of the images, drawn by a seed; every class keeps its share, and at least one."""
        if count is None or count >= len(self):
            return self
        labels = self.labels
        if count < len(labels.unique()):
            raise ValueError(
                f'{count} images cannot hold the {len(labels.unique())} classes; take at least as many'
            )
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
        rank = torch.empty(len(labels), dtype=torch.double)
        for label in labels.unique():
            members = order[labels[order] == label]
            # the first of every class come first, then the classes in proportion
            rank[members] = torch.arange(len(members), dtype=torch.double) / len(members)
        kept = rank.sort(stable=True).indices[:count].sort().values
        return LabelledImages(self.folder, self.indices[kept])


def _collate(samples: Sequence[tuple[Tensor, int] | None]) -> tuple[Tensor, Tensor]:
    good = [sample for sample in samples if sample is not None]
    images = torch.stack([image for image, _ in good]) if good else torch.empty(0, 3, 1, 1, dtype=torch.uint8)
    return images, torch.tensor([label for _, label in good], dtype=torch.long)


def labelled_images(data: str, image_size: int = 224) -> tuple[LabelledImages, LabelledImages]:
    """Training and validation images.

    Args:
        data: a folder or archive with ``train/<class>/`` and ``val/<class>/`` (also 'validation', 'valid' or
            'test'), or with class folders only, of which a fixed fifth of every class becomes the validation
            set (said in a line).
        image_size: side of the central crop, pixels; the short edge is resized to 256 / 224 of it.

    Returns:
        training and validation set, whose labels count the classes of the training set.

    Raises:
        FileNotFoundError: no such folder, or no validation images beside ``train``.
        ValueError: no images, images outside of class folders, one class only, or a class that the training
            set lacks.
    """
    from mmengine.logging import print_log

    from mmssl.data.archives import split_archive
    from mmssl.data.folder import ImageFolder, find_images
    from mmssl.data.transforms import LoadCenterCrop

    data = os.path.expanduser(os.fspath(data))
    pipeline = [LoadCenterCrop(scale=image_size)]
    train = ImageFolder(data, 'train', pipeline, labels='folder')
    train.full_init()
    classes = train.metainfo['classes']
    if len(classes) < 2:
        raise ValueError(
            f'{train.image_root} holds one class only ({classes[0]!r}); a classifier needs at least two class folders'
        )
    whole_root = find_images(data, '')[0] if split_archive(data) else data.rstrip('/')
    if train.image_root == whole_root:
        from mmssl.evaluation.linear import stratified_split

        whole = LabelledImages(train)
        first, second = stratified_split(whole.labels, SHARE, SPLIT_SEED)
        if not len(second):
            raise ValueError(
                f'no class of {train.image_root} has two images, so that none can be kept for validation'
            )
        print_log(
            f'{train.image_root} has no train and val: every class is split by a fixed draw, {len(first)} images to train and '
            f'{len(second)} to validate',
            logger='current',
        )
        return LabelledImages(train, first), LabelledImages(train, second)
    for name in VAL_FOLDERS:
        try:
            find_images(data, name)
        except FileNotFoundError:
            continue
        val = ImageFolder(data, name, pipeline, labels='folder', classes=classes)
        val.full_init()
        return LabelledImages(train), LabelledImages(val)
    raise FileNotFoundError(
        f'{data} has train but none of {", ".join(VAL_FOLDERS)}; add one, or give {os.path.join(data, "train")}, '
        'which is then split'
    )


def image_loader(images: LabelledImages, batch_size: int = 64, num_workers: int = 2) -> DataLoader:
    """Batches (B, 3, H, W), uint8, BGR, and (B,) labels, in order; draws nothing from the global generators."""
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
    """The loader of one split ('train' or 'val'); arguments and errors as in :func:`labelled_images` and :func:`image_loader`."""
    if split not in SPLITS:
        raise ValueError(f'split {split!r} is unknown; one of {", ".join(SPLITS)}')
    return image_loader(labelled_images(data, image_size)[SPLITS.index(split)], batch_size, num_workers)
