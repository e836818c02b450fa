"""Settings of data loaders."""

import warnings

import pytest
import torch
from mmengine.runner import Runner as MMEngineRunner
from mmengine.structures import BaseDataElement, InstanceData

from mmssl.engine.runner import build_dataloader


@pytest.mark.parametrize('num_workers', [0, 1])
@pytest.mark.parametrize('sampler', [dict(type='DefaultSampler', shuffle=False)])
def test_worker_options_are_dropped_without_workers(num_workers, sampler):
    options = dict(persistent_workers=True, prefetch_factor=3, multiprocessing_context='fork')
    settings = dict(dataset=list(range(6)), sampler=sampler, batch_size=2, num_workers=num_workers, **options)
    loader = build_dataloader(settings)
    assert loader.persistent_workers == bool(num_workers)
    assert loader.prefetch_factor == (3 if num_workers else None)
    assert len(loader) == 3 and settings['persistent_workers']
    if not num_workers:
        with pytest.raises(ValueError, match='num_workers > 0'):
            MMEngineRunner.build_dataloader(settings)


@pytest.mark.parametrize(
    ('cuda', 'setting', 'pinned'),
    [(True, {}, True), (True, dict(pin_memory=False), False), (False, dict(pin_memory=True), False)],
)
def test_memory_is_pinned_by_default_where_there_is_cuda(cuda, setting, pinned, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: cuda)
    sampler = dict(type='DefaultSampler', shuffle=False)
    loader = build_dataloader(dict(dataset=[0, 1], sampler=sampler, batch_size=2, num_workers=0, **setting))
    assert loader.pin_memory is pinned
    if not pinned:
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            next(iter(loader))


def test_the_tensors_of_data_samples_are_pinned_too(monkeypatch):
    monkeypatch.setattr(torch.Tensor, 'pin_memory', lambda self: self + 1)
    boxes = InstanceData(boxes=torch.zeros(2, 4), names=['a', 'b'])
    sample = BaseDataElement(metainfo=dict(path='x.jpg'), gt_instances=boxes, label=torch.zeros(1))
    pinned = torch.utils.data._utils.pin_memory.pin_memory([sample])[0]
    assert pinned.path == 'x.jpg' and pinned.label == 1 and sample.label == 0
    assert torch.equal(pinned.gt_instances.boxes, torch.ones(2, 4)) and pinned.gt_instances.names == [
        'a',
        'b',
    ]
