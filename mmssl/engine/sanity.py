"""What is checked before the first step."""

import logging

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper

from mmssl.registry import HOOKS

HEADS = ('head', 'decode_head', 'auxiliary_head', 'bbox_head', 'mask_head')


def check_class_count(model, dataset) -> None:
    """Compare the classes of a dataset with those of the model's heads.

    Args:
        model: a module; heads are its submodules named head, decode_head, auxiliary_head, bbox_head or
            mask_head that have ``num_classes``.
        dataset: anything with ``metainfo['classes']``; without it nothing is checked.

    Raises:
        ValueError: a head with another number of classes; names both and the setting to change. Or an
            annotation file without some of the classes, whose labels the host would number wrongly (COCO).
    """
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
    if not classes:
        return
    categories = getattr(dataset, 'cat_ids', None)
    if categories is not None and len(categories) != len(classes):
        raise ValueError(
            f'{getattr(dataset, "ann_file", "the annotation file")} has {len(categories)} of the {len(classes)} classes '
            f'({_some(classes)}); set metainfo=dict(classes=...) of the dataset to the names of its categories'
        )
    for name, module in heads(model):
        # one class may stand for "object or not" (class-agnostic, binary)
        if 1 < module.num_classes != len(classes):
            raise ValueError(
                f'{name} predicts {module.num_classes} classes, but the data has {len(classes)} ({_some(classes)}); '
                f'set model.{name}.num_classes={len(classes)} (--cfg-options), or give the data it was made for'
            )


def check_same_classes(now, then, where: str) -> None:
    """Compare the classes of a data set with those that a model was trained on.

    Args:
        now: names, or None.
        then: names, or None.
        where: what has the names ``now``, for messages.

    Raises:
        ValueError: the same names in another order, so that every label means something else. Other names are
            logged.
    """
    now, then = tuple(now or ()), tuple(then or ())
    if not now or not then or now == then:
        return
    place = next(
        (number for number, names in enumerate(zip(now, then, strict=False)) if names[0] != names[1]),
        min(len(now), len(then)),
    )
    names = ' and '.join(repr(names[place]) if place < len(names) else 'nothing' for names in (now, then))
    if sorted(now) == sorted(then):
        raise ValueError(
            f'{where} has the classes of training in another order: label {place} is {names}; give both the same classes'
        )
    print_log(
        f'{where} has other classes than training: label {place} is {names}',
        logger='current',
        level=logging.WARNING,
    )


def heads(model) -> list[tuple[str, torch.nn.Module]]:
    """(name, module) of the heads of a model that say how many classes they predict."""
    found = []
    for name, module in model.named_modules():
        if type(module).__name__ == 'STDCHead':  # of borders, whatever the classes are
            continue
        path = [part for part in name.split('.') if part != 'module' and not part.isdigit()]
        if path and path[-1] in HEADS and isinstance(getattr(module, 'num_classes', None), int):
            found.append(('.'.join(path), module))
    return found


def check_labels(model_heads, data_batch) -> None:
    """Look at the labels of a batch where it still is on the CPU; on a GPU a wrong one ends in an assertion that names nothing.

    Args:
        model_heads: from :func:`heads`.
        data_batch: what the data loader gave; samples with ``gt_sem_seg`` (segmentation), ``gt_label``
            (classification) or ``gt_instances.labels`` (detection) are looked at.

    Raises:
        ValueError: a label that the head has no class for, and that is not ignored; names the file, the label
            and the cure.
    """
    samples = data_batch.get('data_samples') if isinstance(data_batch, dict) else None
    for sample in samples if isinstance(samples, (list, tuple)) else []:
        for name, head in model_heads:
            _check_sample(sample, name, head)


def _check_sample(sample, name: str, head) -> None:
    kind = name.rpartition('.')[2]
    ignored, classes = None, head.num_classes
    if kind == 'decode_head' and 'gt_sem_seg' in sample:
        labels, where = sample.gt_sem_seg.data, sample.get('seg_map_path', None)
        ignored, classes = (
            getattr(head, 'ignore_index', 255),
            max(classes, 2),
        )  # one class is foreground and background
    elif kind == 'head' and classes > 1 and 'gt_label' in sample and 'gt_score' not in sample:
        labels, where = sample.gt_label, sample.get('img_path', None)
    elif (
        kind in ('bbox_head', 'mask_head')
        and 'gt_instances' in sample
        and 'labels' in sample.gt_instances
        and classes > 1
    ):
        labels, where = sample.gt_instances.labels, sample.get('img_path', None)
    else:
        return
    if not isinstance(labels, torch.Tensor) or labels.is_floating_point() or not labels.numel():
        return
    least, largest = (int(value) for value in torch.aminmax(labels))
    if least >= 0 and largest < classes:
        return
    wrong = (labels < 0) | (labels >= classes)
    if ignored is not None:
        wrong &= labels != ignored
    if bool(wrong.any()):
        values = ', '.join(map(str, torch.unique(labels[wrong]).tolist()[:5]))
        cure = (
            '; look at the classes of the dataset and at num_classes'
            if ignored is None
            else f', nor ignore_index={ignored}; look at reduce_zero_label, at the ignored value and at num_classes'
        )
        raise ValueError(
            f'{where or "a sample"}: label {values} is none of the {classes} classes of {name}, 0 to {classes - 1}{cure}'
        )


def _classes_of(meta) -> tuple:
    classes = meta.get('classes') if isinstance(meta, dict) else None
    return tuple(classes) if isinstance(classes, (list, tuple)) else ()


def _some(names) -> str:
    return ', '.join(map(str, names[:5])) + (', ...' if len(names) > 5 else '')


@HOOKS.register_module()
class SanityHook(Hook):
    """Refuse classes that do not fit the heads before the first step, and labels out of range before theirs; the hosts train on, or fail
    deep inside the loss."""

    priority = 'VERY_HIGH'
    _heads: tuple | list = ()
    _classes: tuple = ()

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Note the classes that a checkpoint was trained on."""
        meta = checkpoint.get('meta') if isinstance(checkpoint, dict) else None
        self._classes = _classes_of((meta or {}).get('dataset_meta'))

    def before_train(self, runner) -> None:
        """Check the training data."""
        check_class_count(runner.model, runner.train_dataloader.dataset)
        self._classes = _classes_of(getattr(runner.train_dataloader.dataset, 'metainfo', None))
        self._heads = heads(runner.model.module if is_model_wrapper(runner.model) else runner.model)

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        """Check the labels of the batch."""
        if self._heads:
            check_labels(self._heads, data_batch)

    def before_val(self, runner) -> None:
        """Check the validation data."""
        self._check(runner.model, runner.val_dataloader.dataset, 'the validation data')

    def before_test(self, runner) -> None:
        """Check the test data."""
        self._check(runner.model, runner.test_dataloader.dataset, 'the test data')

    def _check(self, model, dataset, where: str) -> None:
        check_class_count(model, dataset)
        if heads(model):
            check_same_classes(_classes_of(getattr(dataset, 'metainfo', None)), self._classes, where)
