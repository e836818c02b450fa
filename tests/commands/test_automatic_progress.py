"""The progress line within one image of automatic masks."""

import numpy as np
import pytest

from mmssl.commands import prompting
from mmssl.promptable import SamAutomaticMaskGenerator, TiledMaskGenerator


@pytest.fixture(scope='module')
def model():
    import torch

    from mmssl.engine.launch import load_config
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
def test_calls_are_counted_beforehand(model, settings, tile, capsys):
    plain = SamAutomaticMaskGenerator(
        model, pred_iou_thresh=0.0, stability_score_thresh=0.0, output_mode='coco_rle', **settings
    )
    generator = plain if tile is None else TiledMaskGenerator(plain, tile)
    pixels = np.random.default_rng(0).integers(0, 255, (64, 90, 3), dtype=np.uint8)
    expected = prompting.generate(generator, pixels, hide=True)
    calls = []
    decode = type(plain).decode
    plain.decode = lambda points: calls.append(1) or decode(plain, points)
    assert not capsys.readouterr().err
    generator.generate(pixels)
    del plain.decode
    assert len(calls) == prompting.decoder_calls(generator, pixels.shape[:2])
    shown = prompting.generate(generator, pixels, hide=False)
    assert [record['segmentation'] for record in shown] == [record['segmentation'] for record in expected]
    assert 'decoding:' in capsys.readouterr().err and 'decode' not in vars(plain)
