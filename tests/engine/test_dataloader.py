"""Settings of data loaders."""

import pytest
from mmengine.runner import Runner as MMEngineRunner

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
