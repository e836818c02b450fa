"""The progress line within one image of automatic masks."""

import numpy as np
import pytest

from mmssl.apis.segmenters import AutomaticSegmenter


@pytest.fixture(scope='module')
def model():
    import torch

    from mmssl.config.load import load_config
    from mmssl.registry import MODELS, build

    torch.manual_seed(0)
    return build(load_config('smoke/sam.py').model.model.to_dict(), MODELS).eval()


@pytest.mark.parametrize(
    ('settings', 'tile'),
    [
        (dict(points_per_side=5, points_per_batch=4), None),
        (dict(points_per_side=4, points_per_batch=5, crop_n_layers=1), None),
        (dict(points_per_side=3, points_per_batch=9), 40),
    ],
)
def test_batches_are_counted_beforehand(model, settings, tile, capsys):
    settings = dict(pred_iou_thresh=0.0, stability_score_thresh=0.0, tile=tile, **settings)
    silent = AutomaticSegmenter(model, settings)
    shown = AutomaticSegmenter(model, settings, show_progress=True)
    pixels = np.random.default_rng(0).integers(0, 255, (64, 90, 3), dtype=np.uint8)
    expected = silent(pixels)
    assert not capsys.readouterr().err
    total = silent.generator.num_batches(pixels.shape[:2])
    assert total > 1
    calls = []
    silent.generator.generate(pixels, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(done, total) for done in range(1, total + 1)]
    assert [record['segmentation'] for record in shown(pixels)] == [
        record['segmentation'] for record in expected
    ]
    assert 'decoding:' in capsys.readouterr().err
