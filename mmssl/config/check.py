"""What a config has to be made of where mmssl looks into it before mmengine does."""

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


def check_kinds(cfg) -> None:
    """Look at settings inside others: hooks, the environment, data sets in data sets.

    Args:
        cfg: a config, or a dict of the same keys; the outermost names are looked at elsewhere
            (``mmssl.engine.launch.check_settings``).

    Raises:
        TypeError: one that has to be a dict and is not; names it.
    """
    name = getattr(cfg, 'filename', None) or 'the config'
    for outer, inner in (('default_hooks', None), ('env_cfg', ('dist_cfg', 'mp_cfg'))):
        holder = cfg.get(outer)
        if isinstance(holder, dict):
            for key, value in holder.items():
                if value is not None and not isinstance(value, dict) and (inner is None or key in inner):
                    raise TypeError(f'{name}: {outer}.{key} = {value!r} has to be a dict')
    for loader in LOADERS:
        settings = cfg.get(loader)
        if isinstance(settings, dict) and isinstance(settings.get('dataset'), dict):
            _check_dataset(settings['dataset'], f'{loader}.dataset', name)


def _check_dataset(dataset, where: str, name: str) -> None:
    if not isinstance(dataset, dict):
        raise TypeError(f'{name}: {where} = {dataset!r} has to be a dict')
    if dataset.get('dataset') is not None:
        _check_dataset(dataset['dataset'], f'{where}.dataset', name)
    parts = dataset.get('datasets') or ()
    if not isinstance(parts, (list, tuple)):
        raise TypeError(f'{name}: {where}.datasets = {parts!r} has to be a list of dicts')
    for number, part in enumerate(parts):
        _check_dataset(part, f'{where}.datasets[{number}]', name)
