"""A training step and a prediction of a config of mmdet or mmseg; see :mod:`toolbox_configs`."""

import contextlib
import copy
import importlib
import logging
import os
import sys
from pathlib import Path

import torch
from torch import nn

SIDE = 128
# image sides of networks that take no other sizes
SIDES = {'ssd': 300, 'beit': 640, 'dino': 256, 'ddq': 256}


def load() -> None:
    """Import the toolboxes once, with the patches and the stand-in of mmssl."""
    importlib.import_module('mmssl.registry')  # first: it serves the stand-in where mmcv is imported
    import mmdet.models
    import mmdet.testing
    import mmpretrain.models
    import mmseg.models
    from mmdet.utils import register_all_modules as det_modules
    from mmseg.utils import register_all_modules as seg_modules

    det_modules(init_default_scope=False)
    seg_modules(init_default_scope=False)
    torch.set_num_threads(1)
    assert mmdet.models and mmdet.testing and mmpretrain.models and mmseg.models


def read_model(paths: list[Path]) -> tuple[str, dict, list[Path]]:
    """Return name and settings of the first config that has a model, and the configs that cannot be read."""
    from mmengine.config import Config

    errors = []
    for path in paths:
        try:
            config = Config.fromfile(path)
        except (KeyError, OSError) as error:
            errors.append(f'{path.name}: {error!r}')
            continue
        if config.get('model'):
            return f'{path.parent.name}/{path.name}', config, errors
    raise ValueError(f'no config of {paths[0].parent.name} has a model: {errors}')


def without_downloads(node) -> None:
    """Remove everything that would download weights, and synchronised norms, from settings in place."""
    for item in node.values() if isinstance(node, dict) else node if isinstance(node, (list, tuple)) else ():
        without_downloads(item)
    if not isinstance(node, dict):
        return
    if isinstance(node.get('init_cfg'), dict) and node['init_cfg'].get('type') == 'Pretrained':
        node['init_cfg'] = None
    for name in ('pretrained', 'checkpoint', 'teacher_ckpt'):
        if isinstance(node.get(name), (str, bool)):
            node[name] = False if name == 'pretrained' and node[name] is True else None
    if node.get('type') in ('SyncBN', 'MMSyncBN'):
        node['type'] = 'BN'


@contextlib.contextmanager
def called_operators():
    """Yield the set of the functions of ``mmcv._ext`` that are called inside."""
    import mmcv

    extension = sys.modules['mmcv._ext']
    names: set[str] = set()
    import mmssl.hosts.mmcv_ext as stand_in

    def record(name, function):
        def recorded(*args, **kwargs):
            names.add(name)
            return function(*args, **kwargs)

        return recorded

    for name in stand_in.PROVIDED:
        if hasattr(extension, name):
            setattr(extension, name, record(name, getattr(extension, name)))
    assert mmcv
    yield names


def finite_step(model: nn.Module, data: dict) -> float:
    """Take a step of SGD and return the loss.

    Raises:
        FloatingPointError: The loss or a gradient is not finite.
        RuntimeError: No weight changed.
    """
    losses = model(**data, mode='loss')
    loss, _ = model.parse_losses(losses)
    loss.backward()
    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    if not loss.isfinite() or not all(gradient.isfinite().all() for gradient in gradients):
        raise FloatingPointError(f'loss {loss.item()} or a gradient is not finite')
    before = [weight.detach().clone() for weight in model.parameters()]
    torch.optim.SGD([w for w in model.parameters() if w.requires_grad], lr=1e-3).step()
    if all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True)):
        raise RuntimeError('no weight has changed')
    return loss.item()


def smallest(node, name: str, default: int) -> int:
    """Return the smallest integer of a name anywhere in settings."""
    items = node.values() if isinstance(node, dict) else node if isinstance(node, (list, tuple)) else ()
    values = [smallest(item, name, default) for item in items if isinstance(item, (dict, list, tuple))]
    if isinstance(node, dict) and isinstance(node.get(name), int):
        values.append(node[name])
    return min(values, default=default)


def run(config, name: str, scope: str, data_of) -> dict:
    """Build the model of a config, train for a step and predict."""
    from mmengine.logging import MessageHub
    from mmengine.registry import MODELS, DefaultScope
    from mmengine.utils import import_modules_from_strings

    if config.get('custom_imports'):
        import_modules_from_strings(**config.custom_imports)
    torch.manual_seed(0)
    logging.disable(logging.WARNING)  # the initialisation of every layer
    os.chdir(next(path.parent for path in Path(config.filename).parents if path.name == 'configs'))
    settings = copy.deepcopy(config.model)
    without_downloads(settings)
    settings.get('data_preprocessor', {}).pop('batch_augments', None)  # they pad to full size
    with (
        DefaultScope.overwrite_default_scope(config.get('default_scope', scope)),
        called_operators() as names,
    ):
        model = MODELS.build(settings)
        model.init_weights()
        for name_of_counter in ('iter', 'epoch'):  # BoxInst and TOOD read them
            MessageHub.get_current_instance().update_info(name_of_counter, 0)
        training, predicting = data_of(settings)
        model.train()
        loss = None
        if training is not None:
            loss = finite_step(model, model.data_preprocessor(training, True))
        model.eval()
        with torch.no_grad():
            results = model.test_step({key: value[:1] for key, value in predicting.items()})
        if not len(results):
            raise RuntimeError('no prediction')
    return dict(config=name, operators=sorted(names), loss=loss)


def mmdet_step(family: str, paths: list[Path]) -> dict:
    """Train and predict with a config of a family of mmdet."""
    from mmdet.testing import demo_mm_inputs, demo_track_inputs

    name, config, _ = read_model(paths)
    side = SIDES.get(family, SIDE)

    def data_of(settings: dict):
        kind = settings.get('data_preprocessor', {}).get('type', '')
        if kind == 'TrackDataPreprocessor':
            training = demo_track_inputs(2, 2, [0], image_shapes=(3, side, side), with_mask=True)
            return training, demo_track_inputs(1, 1, image_shapes=(3, side, side), with_mask=True)
        inputs = demo_mm_inputs(
            2, (3, side, side), num_items=[3, 2], num_classes=2, with_mask=True, with_semantic=True
        )
        for sample in inputs['data_samples']:
            sample.gt_instances.labels.zero_()
            sample.set_metainfo(dict(batch_input_shape=(side, side), pad_shape=(side, side)))
        if kind == 'MultiBranchDataPreprocessor':
            branches = ('sup', 'unsup_teacher', 'unsup_student')
            training = {key: dict.fromkeys(branches, value) for key, value in inputs.items()}
            return training, inputs
        return inputs, inputs

    return run(config, name, 'mmdet', data_of)


def mmseg_step(family: str, paths: list[Path]) -> dict:
    """Train and predict with a config of a family of mmseg."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    name, config, _ = read_model(paths)
    side = SIDES.get(family, SIDE)
    config.model.data_preprocessor.update(size=(side, side))
    config.model.setdefault('test_cfg', {}).update(mode='whole')

    def data_of(settings: dict):
        inputs, samples = [], []
        for _ in range(2):
            inputs.append(torch.randint(0, 256, (3, side, side), dtype=torch.uint8))
            sample = SegDataSample(
                metainfo=dict(
                    img_shape=(side, side), ori_shape=(side, side), pad_shape=(side, side), img_path='a.png'
                )
            )
            classes = min(smallest(settings.get('decode_head'), 'num_classes', 150), 19)
            sample.gt_sem_seg = PixelData(data=torch.randint(0, classes, (1, side, side)))
            sample.gt_edge_map = PixelData(data=torch.randint(0, 2, (1, side, side)))
            inputs[-1][0] = sample.gt_sem_seg.data[0].to(torch.uint8)
            samples.append(sample)
        data = dict(inputs=inputs, data_samples=samples)
        return data, data

    return run(config, name, 'mmseg', data_of)


STEPS = {'mmdet': mmdet_step, 'mmseg': mmseg_step}
