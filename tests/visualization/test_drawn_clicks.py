"""Figures of interactive segmentation."""

import numpy as np
import pytest
import torch
from PIL import Image

from mmssl.visualization.clicks import click_curve, draw_clicks


def test_masks_after_clicks_beside_the_objects(tmp_path):
    Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(tmp_path / 'x.png')
    masks = torch.zeros(2, 40, 60, dtype=torch.bool)
    masks[0, 5:20, 5:20] = masks[1, 10:30, 30:50] = True
    results = dict(
        click_ious=torch.tensor([[0.5, 1.0], [0.25, 0.75]]),
        first_masks=masks,
        last_masks=masks,
        points=torch.ones(2, 2, 3) * 10,
    )
    sample = dict(img_path=str(tmp_path / 'x.png'), gt_instances=dict(masks=masks), pred_instances=results)
    with Image.open(draw_clicks(sample, tmp_path / 'out')) as figure:
        assert figure.width > 4 * 60 and figure.mode == 'RGB'
    del results['first_masks']
    with pytest.raises(ValueError, match='keep_masks=True'):
        draw_clicks(sample, tmp_path)


def test_click_curve():
    flat, steep = (np.asarray(click_curve({'a': values})) for values in ([50, 50, 50], [10, 50, 90]))
    assert flat.shape == (380, 560, 3) and (flat != steep).any()
    with pytest.raises(ValueError, match='a curve needs values'):
        click_curve({})
