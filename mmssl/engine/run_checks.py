"""Checks of data and metrics whose faults otherwise show at the first validation or an epoch's end."""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from mmengine.logging import print_log
from torch.nn import BatchNorm1d, Module, SyncBatchNorm
from torch.nn.modules.batchnorm import _BatchNorm

from mmssl.data.folder import ImageFolder
from mmssl.data.label_values import LABEL_LOADERS, missing_beside_ignored
from mmssl.engine import seeding
from mmssl.hosts.coco_files import check_evaluated_image

# images whose names are compared with a metric's file before training
MAX_IMAGES = 500
# label maps that are read before training
MAX_LABEL_MAPS = 50


def with_inner_datasets(dataset: Any) -> Iterator[Any]:
    """Yield a built data set and all data sets inside it (wrappers of mmengine and of the data loader)."""
    yield dataset
    own = vars(dataset)
    inner = own.get('datasets') or own.get('dataset') or own.get('_dataset')
    if inner is None:
        return
    for each in inner if isinstance(inner, (list, tuple)) else [inner]:
        yield from with_inner_datasets(each)


def number_folders_by_name(dataset: Any, classes: Sequence[str], where: str) -> None:
    """Give class folders the labels that their names have in training, if training has all of these names.

    A folder that lacks some of the classes of training would be numbered without them.

    Args:
        dataset: A built data set; only :class:`mmssl.data.folder.ImageFolder` takes its classes from folders.
        classes: Names of the classes in training, in the order of their labels.
        where: The data set, for messages.
    """
    classes = tuple(classes)
    parts = list(with_inner_datasets(dataset))
    folders = [part for part in parts if isinstance(part, ImageFolder) and part.classes_from_folders]
    present = {name for folder in folders for name in folder.metainfo.get('classes') or ()}
    if not present or not present < set(classes):
        return
    missing = [name for name in classes if name not in present]
    for folder in folders:
        folder.use_classes(classes)
    for part in parts:
        if 'classes' in vars(part).get('_metainfo', {}):
            part._metainfo['classes'] = classes
    print_log(
        f'{where} has no images of {len(missing)} of the {len(classes)} classes of training '
        f'({", ".join(missing[:5])}{", ..." if len(missing) > 5 else ""}); labels follow the names',
        logger='current',
        level=logging.WARNING,
    )


def limit_topk(metrics: Sequence[Any], num_classes: int, monitored: str | None = None) -> None:
    """Leave out accuracies over more classes than there are.

    Args:
        metrics: Metrics of an evaluator; those with ``topk`` are changed.
        num_classes: Number of classes that the head predicts.
        monitored: Names of scores that select the best checkpoint.

    Raises:
        ValueError: A metric has no other accuracy, or the best checkpoint is selected by one of these.
    """
    for metric in metrics:
        topk = getattr(metric, 'topk', None)
        if not isinstance(topk, tuple) or not all(isinstance(k, int) for k in topk):
            continue
        possible = tuple(k for k in topk if k <= num_classes)
        impossible = [f'top{k}' for k in topk if k > num_classes]
        if not impossible:
            continue
        text = f'{", ".join(impossible)} of {type(metric).__name__} needs more than the {num_classes} classes'
        if not possible or any(name in (monitored or '') for name in impossible):
            raise ValueError(f'{text}; set topk of val_evaluator and test_evaluator, for example to (1,)')
        metric.topk = possible
        print_log(f'{text}; it is left out', logger='current', level=logging.WARNING)


def check_evaluated_files(dataset: Any, metrics: Sequence[Any]) -> None:
    """Compare the first images of a data set with the annotation file of each metric that reads one.

    Args:
        dataset: A built data set.
        metrics: Metrics of its evaluator.

    Raises:
        ValueError: An image is another one in the file, or none.
    """
    apis = [api for metric in metrics if (api := getattr(metric, '_coco_api', None)) is not None]
    parts = list(with_inner_datasets(dataset))
    if not apis or any('datasets' in vars(part) for part in parts) or not hasattr(parts[-1], 'get_data_info'):
        return
    for index in range(min(len(parts[-1]), MAX_IMAGES)):
        info = parts[-1].get_data_info(index)
        for api in apis:
            check_evaluated_image(info, api.imgs, getattr(api, 'file', None) or 'ann_file')


def check_last_batch(model: Any, loader: Any) -> None:
    """Refuse a last batch of a single image if the model normalises over the batch alone.

    PyTorch fails at the end of the first epoch.

    Args:
        model: The model, without wrappers.
        loader: Data loader of training.

    Raises:
        ValueError: The last batch of an epoch has one image, and the model has a BatchNorm1d. The first step
            raises it if another batch norm gets maps of a single pixel there.
    """
    batch_size = getattr(loader, 'batch_size', None)
    if not batch_size or batch_size == 1 or loader.drop_last or seeding.is_endless(loader):
        return
    images = len(loader.sampler)
    if images % batch_size != 1:
        return
    message = (
        f'the last of the batches of {batch_size} holds a single one of the {images} images, over which the '
        'batch norm {name} cannot normalise; set train_dataloader.drop_last=True, or another batch_size'
    )
    for name, module in model.named_modules():
        if type(module) is BatchNorm1d:
            raise ValueError(message.format(name=name))
        if isinstance(module, _BatchNorm) and not isinstance(module, SyncBatchNorm):
            _refuse_maps_of_a_pixel(module, message.format(name=name))


def _refuse_maps_of_a_pixel(module: Module, message: str) -> None:
    """Raise ValueError in the first training step of a batch norm if its maps have one pixel."""

    def check(norm: Module, arguments: tuple) -> None:
        if norm.training:
            handle.remove()
            if arguments[0].shape[2:].numel() == 1:
                raise ValueError(message)

    handle = module.register_forward_pre_hook(check)


def check_label_maps(dataset: Any, ignore_index: int, where: str = 'the training data') -> None:
    """Look for classes that are ignored by mistake in a sample of label maps, before the first step.

    Args:
        dataset: A built data set; parts without label maps are not checked.
        ignore_index: Label that the decode head ignores.
        where: The data set, for messages.

    Raises:
        ValueError: Only one of several classes has pixels, and there are ignored pixels. Where more than one
            has pixels, the missing ones are only logged, and only if all label maps were read.
    """
    for part in with_inner_datasets(dataset):
        loader = _label_map_loader(part)
        classes = (getattr(part, 'metainfo', None) or {}).get('classes')
        if loader is None or not classes:
            continue
        step = -(-len(part) // MAX_LABEL_MAPS)
        counts: Counter[int] = Counter()
        for index in range(0, len(part), step):
            counts.update(_count_labels(loader, part.get_data_info(index)))
        ignored = counts.pop(ignore_index, 0)
        root = getattr(part, 'data_root', None)
        source = f'{where} ({root})' if root else where
        single = missing_beside_ignored(classes, counts, ignored, ignore_index, single_class=True)
        if single:
            raise ValueError(f'{source}: {single}')
        text = missing_beside_ignored(classes, counts, ignored, ignore_index) if step == 1 else ''
        if text:
            print_log(f'{source}: {text}', logger='current', level=logging.WARNING)


def _label_map_loader(dataset: Any) -> Any:
    """Return the transform of a data set that loads label maps; None if it has none."""
    if 'pipeline' not in vars(dataset) or not hasattr(dataset, 'get_data_info') or not len(dataset):
        return None
    if not dataset.get_data_info(0).get('seg_map_path') or 'instances' in dataset.get_data_info(0):
        return None
    steps = getattr(dataset.pipeline, 'transforms', ())
    return next((step for step in steps if type(step).__name__ in LABEL_LOADERS), None)


def _count_labels(loader: Any, info: dict) -> dict[int, int]:
    """Count the pixels of each label of a map; one that cannot be read is left to training to name."""
    try:
        labels = loader({**info, 'seg_fields': []})['gt_seg_map']
    except (OSError, ValueError):
        return {}
    counts = np.bincount(np.asarray(labels).reshape(-1))
    return {int(label): int(counts[label]) for label in np.flatnonzero(counts)}
