"""Checks of classes and labels before they reach a loss."""

import logging

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log

from mmssl.engine.bare_model import bare_model
from mmssl.engine.run_checks import (
    check_evaluated_files,
    check_label_maps,
    check_last_batch,
    limit_topk,
    number_folders_by_name,
)
from mmssl.registry import HOOKS

HEADS = ('head', 'decode_head', 'auxiliary_head', 'bbox_head', 'mask_head')


def check_class_count(model, dataset) -> None:
    """Compare the classes of a dataset with those of the model's heads.

    Args:
        model: A module; its heads are the submodules in :data:`HEADS` that have ``num_classes``.
        dataset: Anything with ``metainfo['classes']``; without it nothing is checked.

    Raises:
        ValueError: A head has another number of classes; the message names both and the setting to change. Or
            an annotation file lacks some of the classes, so that mmdet would number its labels wrongly
            (COCO).
    """
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
    if not classes:
        return
    categories = getattr(dataset, 'cat_ids', None)
    if categories is not None and len(categories) != len(classes):
        raise ValueError(
            f'{getattr(dataset, "ann_file", "the annotation file")} has {len(categories)} of the '
            f'{len(classes)} '
            f'classes ({_shortened(classes)}); set metainfo=dict(classes=...) of the dataset to the names of '
            'its '
            'categories'
        )
    for name, module in heads(model):
        # one class may mean "object or not" (class-agnostic, binary)
        if 1 < module.num_classes != len(classes):
            raise ValueError(
                f'{name} predicts {module.num_classes} classes, but the data has {len(classes)} '
                f'({_shortened(classes)}); set model.{name}.num_classes={len(classes)} (--cfg-options), '
                'or give the data it was made for'
            )


def check_same_classes(now, then, where: str, same_run: bool = False) -> None:
    """Compare the classes of a data set with those that a model was trained on.

    Args:
        now: Names of the data set's classes, or None.
        then: Names of the classes in training, or None.
        where: The data set, for messages.
        same_run: Whether one config gives both.

    Raises:
        ValueError: The names differ, so that labels mean other classes. Where a checkpoint is tested, names
            of which none is a class of training are only logged: they may be the same classes in other words.
    """
    now, then = tuple(now or ()), tuple(then or ())
    if not now or not then or now == then:
        return
    pairs = enumerate(zip(now, then, strict=False))
    label = next((label for label, names in pairs if names[0] != names[1]), min(len(now), len(then)))
    names = ' and '.join(repr(names[label]) if label < len(names) else 'nothing' for names in (now, then))
    if sorted(now) == sorted(then):
        raise ValueError(
            f'{where} has the classes of training in another order: label {label} is {names}; '
            'give both the same classes'
        )
    text = f'{where} has other classes than training: label {label} is {names}'
    if same_run or set(now) & set(then):
        raise ValueError(f'{text}; give both the same class folders, or the same classes of the data set')
    print_log(text, logger='current', level=logging.WARNING)


def heads(model) -> list[tuple[str, torch.nn.Module]]:
    """Return (name, module) of a model's heads that have a number of classes."""
    result = []
    for name, module in model.named_modules():
        if hasattr(module, 'boundary_threshold'):  # mmseg's STDCHead predicts borders, whatever the classes
            continue
        path = [part for part in name.split('.') if part != 'module' and not part.isdigit()]
        if path and path[-1] in HEADS and isinstance(getattr(module, 'num_classes', None), int):
            result.append(('.'.join(path), module))
    return result


def check_labels(model_heads, data_batch) -> None:
    """Check the labels of a batch while it is on the CPU.

    On a GPU a label out of range ends in an assertion that names nothing.

    Args:
        model_heads: Heads from :func:`heads`.
        data_batch: Batch of the data loader; samples with ``gt_sem_seg`` (segmentation), ``gt_label``
            (classification) or ``gt_instances.labels`` (detection) are checked.

    Raises:
        ValueError: A head has no class for a label that is not ignored; the message names the file, the label
            and the settings to change.
    """
    samples = data_batch.get('data_samples') if isinstance(data_batch, dict) else None
    for sample in samples if isinstance(samples, (list, tuple)) else []:
        for name, head in model_heads:
            _check_sample(sample, name, head)


def _check_sample(sample, name: str, head) -> None:
    labels, file, ignored = _labels_of(sample, name, head)
    if not isinstance(labels, torch.Tensor) or labels.is_floating_point() or not labels.numel():
        return
    classes = head.num_classes
    if name.endswith('decode_head'):
        classes = max(classes, 2)  # one class means foreground and background
    smallest, largest = (int(value) for value in torch.aminmax(labels))
    if smallest >= 0 and largest < classes:
        return
    wrong = (labels < 0) | (labels >= classes)
    if ignored is not None:
        wrong &= labels != ignored
    if bool(wrong.any()):
        values = ', '.join(map(str, torch.unique(labels[wrong]).tolist()[:5]))
        if ignored is None:
            hint = '; check the classes of the dataset and num_classes'
        else:
            hint = f', nor ignore_index={ignored}; check reduce_zero_label, the ignored value and num_classes'
            if largest_label(labels, ignored) == classes:
                hint += '. If 0 means unlabelled, set reduce_zero_label=True of the data set'
        raise ValueError(
            f'{file or "a sample"}: label {values} is none of the {classes} classes of {name}, '
            f'0 to {classes - 1}{hint}'
        )


def largest_label(labels: torch.Tensor, ignored: int) -> int:
    """Return the largest label that is not ignored."""
    return int(labels[labels != ignored].max())


def _labels_of(sample, name: str, head) -> tuple[torch.Tensor | None, str | None, int | None]:
    """Return the labels of a sample that a head learns, their file, and the label that it ignores.

    The labels are None if the sample has none for this head, or they are not classes.
    """
    head_type = name.rpartition('.')[2]
    if head_type == 'decode_head' and 'gt_sem_seg' in sample:
        return sample.gt_sem_seg.data, sample.get('seg_map_path', None), getattr(head, 'ignore_index', 255)
    file = sample.get('img_path', None)
    if head.num_classes > 1:
        if head_type == 'head' and 'gt_label' in sample and 'gt_score' not in sample:
            return sample.gt_label, file, None
        if head_type in ('bbox_head', 'mask_head') and 'labels' in sample.get('gt_instances', ()):
            return sample.gt_instances.labels, file, None
    return None, None, None


def _classes_of(meta) -> tuple:
    classes = meta.get('classes') if isinstance(meta, dict) else None
    return tuple(classes) if isinstance(classes, (list, tuple)) else ()


def _monitored(runner) -> str:
    """Return the names of the scores that select the best checkpoint."""
    return ' '.join(str(getattr(hook, 'save_best', '') or '') for hook in runner.hooks)


def _shortened(names) -> str:
    return ', '.join(map(str, names[:5])) + (', ...' if len(names) > 5 else '')


@HOOKS.register_module()
class SanityHook(Hook):
    """Refuse classes that do not fit the heads, and labels out of range, before they are trained on.

    The toolboxes would train on, or fail deep inside the loss.
    """

    priority = 'VERY_HIGH'
    _heads: tuple | list = ()
    _evaluated_heads: tuple | list = ()
    _classes: tuple = ()

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Note the classes that a checkpoint was trained on."""
        meta = checkpoint.get('meta') if isinstance(checkpoint, dict) else None
        self._classes = _classes_of((meta or {}).get('dataset_meta'))

    def before_train(self, runner) -> None:
        """Check the training data."""
        check_class_count(runner.model, runner.train_dataloader.dataset)
        self._classes = _classes_of(getattr(runner.train_dataloader.dataset, 'metainfo', None))
        self._heads = heads(bare_model(runner.model))
        check_last_batch(bare_model(runner.model), runner.train_dataloader)
        for name, head in self._heads:
            if name.endswith('decode_head'):
                ignored = getattr(head, 'ignore_index', 255)
                check_label_maps(runner.train_dataloader.dataset, ignored)
                if runner.val_loop is not None:
                    check_label_maps(runner.val_loop.dataloader.dataset, ignored, 'the validation data')
                break
        if runner.val_loop is not None:
            self._check_evaluation(runner, runner.val_loop, 'the validation data', same_run=True)

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        """Check the labels of the batch."""
        if self._heads:
            check_labels(self._heads, data_batch)

    def before_val_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        """Check the labels of the batch; those of pixels are left to the metrics, which may ignore others."""
        check_labels([head for head in self._evaluated_heads if 'decode_head' not in head[0]], data_batch)

    def before_test_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        """Check the labels of the batch as in validation."""
        self.before_val_iter(runner, batch_idx, data_batch)

    def before_val(self, runner) -> None:
        """Check the validation data."""
        self._check_evaluation(runner, runner.val_loop, 'the validation data')

    def before_test(self, runner) -> None:
        """Check the test data."""
        self._check_evaluation(runner, runner.test_loop, 'the test data')

    def _check_evaluation(self, runner, loop, where: str, same_run: bool = False) -> None:
        """Check the classes and the metrics of a loop of validation or test."""
        dataset = loop.dataloader.dataset
        self._evaluated_heads = model_heads = heads(bare_model(runner.model))
        if model_heads and self._classes:
            number_folders_by_name(dataset, self._classes, where)
            loop.evaluator.dataset_meta = dataset.metainfo
        check_class_count(runner.model, dataset)
        if not model_heads:
            return
        check_same_classes(_classes_of(getattr(dataset, 'metainfo', None)), self._classes, where, same_run)
        check_evaluated_files(dataset, loop.evaluator.metrics)
        limit_topk(loop.evaluator.metrics, model_heads[0][1].num_classes, _monitored(runner))
