"""Data sets and classification heads in the settings of a config."""

from collections.abc import Iterator, Mapping

# parameter names under which models keep their heads, as mmssl.engine.sanity searches them
HEADS = ('head', 'decode_head', 'auxiliary_head', 'bbox_head', 'mask_head')


def innermost_datasets(settings: Mapping) -> Iterator[Mapping]:
    """Yield the settings of the data sets inside wrappers such as RepeatDataset and ConcatDataset."""
    inner = settings.get('datasets') or settings.get('dataset')
    if not inner:
        yield settings
        return
    for dataset in inner if isinstance(inner, (list, tuple)) else [inner]:
        yield from innermost_datasets(dataset)


def head_settings(model, name: str = '') -> Iterator[tuple[str, Mapping]]:
    """Yield (dotted name, settings) of every head in a model's config that states its number of classes.

    Args:
        model: Settings of the model, or any value inside them.
        name: Dotted name of ``model``.
    """
    if isinstance(model, Mapping):
        if name.rpartition('.')[2] in HEADS and isinstance(model.get('num_classes'), int):
            yield name, model
        for key, value in model.items():
            yield from head_settings(value, f'{name}.{key}' if name else str(key))
    elif isinstance(model, (list, tuple)):
        for value in model:
            yield from head_settings(value, name)
