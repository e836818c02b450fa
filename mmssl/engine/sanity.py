"""What is checked before the first step."""

from mmengine.hooks import Hook

from mmssl.registry import HOOKS

HEADS = ('head', 'decode_head', 'auxiliary_head', 'bbox_head', 'mask_head')


def check_class_count(model, dataset) -> None:
    """Compare the classes of a dataset with those of the model's heads.

    Args:
        model: a module; heads are its submodules named head, decode_head, auxiliary_head, bbox_head or mask_head that have ``num_classes``.
        dataset: anything with ``metainfo['classes']``; without it nothing is checked.

    Raises:
        ValueError: a head with another number of classes; names both and the setting to change. Or an annotation file without some of the
            classes, whose labels the host would number wrongly (COCO).
    """
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
    if not classes:
        return
    categories = getattr(dataset, 'cat_ids', None)
    if categories is not None and len(categories) != len(classes):
        raise ValueError(f'{getattr(dataset, "ann_file", "the annotation file")} has {len(categories)} of the {len(classes)} classes '
                         f'({_some(classes)}); set metainfo=dict(classes=...) of the dataset to the names of its categories')
    for name, module in model.named_modules():
        count = getattr(module, 'num_classes', None)
        path = [part for part in name.split('.') if part != 'module' and not part.isdigit()]
        # one class may stand for "object or not" (class-agnostic, binary)
        if path and path[-1] in HEADS and isinstance(count, int) and count > 1 and count != len(classes):
            raise ValueError(f'{".".join(path)} predicts {count} classes, but the data has {len(classes)} ({_some(classes)}); '
                             f'set model.{".".join(path)}.num_classes={len(classes)} (--cfg-options), or give the data it was made for')


def _some(names) -> str:
    return ', '.join(map(str, names[:5])) + (', ...' if len(names) > 5 else '')


@HOOKS.register_module()
class SanityHook(Hook):
    """Refuse classes that do not fit the heads before the first step; the hosts train on, or fail deep inside the loss."""

    priority = 'VERY_HIGH'

    def before_train(self, runner) -> None:
        """Check the training data."""
        check_class_count(runner.model, runner.train_dataloader.dataset)

    def before_val(self, runner) -> None:
        """Check the validation data."""
        check_class_count(runner.model, runner.val_dataloader.dataset)

    def before_test(self, runner) -> None:
        """Check the test data."""
        check_class_count(runner.model, runner.test_dataloader.dataset)
