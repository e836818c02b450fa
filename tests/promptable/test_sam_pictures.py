"""Pictures of promptable segmentation."""

import numpy as np
import pytest
import torch
from PIL import Image

from mmssl.visualization.promptable import (
    NEGATIVE,
    POSITIVE,
    click_curve,
    draw_clicks,
    draw_prompts,
    overlay_masks,
)


def test_small_masks_lie_over_large_ones():
    image, masks = np.full((20, 30, 3), 100, np.uint8), np.zeros((2, 20, 30), bool)
    masks[0, 8:12, 8:12] = masks[1, 4:16, 4:24] = True
    out = overlay_masks(image, masks, [(200, 0, 0), (0, 200, 0)])
    assert (
        out[0, 0].tolist() == [100, 100, 100]
        and out[4, 4].tolist() == [0, 200, 0]
        and out[8, 8].tolist() == [200, 0, 0]
    )
    assert out[6, 20].tolist() == [50, 150, 50] and out[9, 9].tolist() == [125, 75, 25]
    with pytest.raises(ValueError, match=r'masks of shape \(1, 2, 2\) over an image of 20x30'):
        overlay_masks(image, np.zeros((1, 2, 2), bool))


def test_points_and_boxes():
    out = draw_prompts(
        np.zeros((40, 60, 3), np.uint8), [[10, 10], [30, 30], [50, 5]], [1, 0, -1], [[40, 20, 55, 35]]
    )
    assert (
        tuple(out[10, 10]) == POSITIVE
        and tuple(out[30, 30]) == NEGATIVE
        and not out[5, 50].any()
        and out[20, 45].any()
    )


def test_clicks_beside_the_objects(tmp_path):
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
    with Image.open(draw_clicks(sample, tmp_path / 'out')) as picture:
        assert picture.width > 4 * 60 and picture.mode == 'RGB'
    del results['first_masks']
    with pytest.raises(ValueError, match='keep_masks=True'):
        draw_clicks(sample, tmp_path)


def test_curve():
    flat, steep = (np.asarray(click_curve({'a': values})) for values in ([50, 50, 50], [10, 50, 90]))
    assert flat.shape == (380, 560, 3) and (flat != steep).any()
    with pytest.raises(ValueError, match='a curve needs values'):
        click_curve({})
