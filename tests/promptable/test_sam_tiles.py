"""Large images by tiles: objects over several of them, objects seen twice, memory."""

import itertools
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mmssl.promptable import SamAutomaticMaskGenerator, TiledMaskGenerator, build_sam
from mmssl.promptable.amg import Mask
from mmssl.promptable.rle import area_of, box_of_runs, mask_of, runs_of
from mmssl.promptable.tiles import spans

SIZES = dict(
    image_encoder=dict(
        img_size=64, embed_dim=32, depth=2, num_heads=2, out_chans=32, window_size=3, global_attn_indexes=(1,)
    ),
    mask_decoder=dict(transformer=dict(num_heads=4, mlp_dim=64), iou_head_hidden_dim=32),
)


class Colours(SamAutomaticMaskGenerator):
    """Finds every colour of a tile, and never sees more than a tile."""

    def __init__(self, max_side, output_mode='coco_rle', rough=False):
        self.max_side, self.output_mode, self.crop_nms_thresh, self.rough = max_side, output_mode, 0.7, rough
        self.predictor = SimpleNamespace(transform=SimpleNamespace(target_length=max_side), channels=3)
        self.recorded = []

    def masks(self, image):
        assert image.flags.c_contiguous and max(image.shape[:2]) <= self.max_side
        self.recorded.append(image.shape[:2])
        matches = []
        for colour in set(np.unique(image[..., 0])) - {0}:
            mask = image[..., 0] == colour
            if (
                self.rough and len(self.recorded) % 2
            ):  # every other tile has it one pixel too small at the left
                mask = mask & np.roll(mask, 1, axis=1)
            runs = runs_of(mask)
            if len(runs):
                point = np.argwhere(mask)[0, ::-1].astype(float)
                matches.append(
                    Mask(
                        runs,
                        box_of_runs(runs, len(image)),
                        0.9 + 0.001 * len(self.recorded),
                        0.95,
                        point[None],
                        (0, 0, *image.shape[1::-1]),
                    )
                )
        return matches


def scene(size, objects):
    image = np.zeros((*size, 3), np.uint8)
    for number, area in enumerate(objects, 1):
        image[area] = 10 * number
    return image


def test_tiles_cover_an_axis():
    assert spans(100, 100, 20) == [(0, 100)] and spans(30, 100, 20) == [(0, 30)]
    assert spans(101, 100, 20) == [(0, 100), (1, 101)]
    for length, tile, overlap in ((1000, 100, 20), (999, 64, 32), (257, 128, 1), (400, 100, 50)):
        matches = spans(length, tile, overlap)
        assert (
            matches[0][0] == 0
            and matches[-1][1] == length
            and all(end - start == tile for start, end in matches)
        )
        assert all(end - following >= overlap for (_, end), (following, _) in itertools.pairwise(matches))
        assert len(matches) == -(-(length - overlap) // (tile - overlap)), 'no more than needed'


@pytest.mark.parametrize('rough', [False, True])
def test_objects_over_several_tiles_are_one(rough):
    rows, columns = np.mgrid[:300, :400]
    objects = [
        (rows - 150) ** 2 + (columns - 190) ** 2
        < 90**2,  # over four rows and columns of tiles, bridges no seam alone
        (abs(rows - 20) < 6) & (columns > 20) & (columns < 380),  # along the upper border
        (rows > 60) & (columns > 340) & (rows < 75) & (columns < 352),
        (rows > 250) & (rows < 290) & (columns > 5) & (columns < 40),
        (rows > 262) & (columns > 300),
    ]  # the corner of the image
    image = scene((300, 400), objects)
    tiled = TiledMaskGenerator(Colours(100, rough=rough), 100, 30)
    masks = tiled.masks(image)
    assert len(masks) == len(objects)
    matches = [mask_of(mask.runs, (300, 400)) for mask in masks]
    for number in range(1, len(objects) + 1):
        expected = image[..., 0] == 10 * number
        ious = [(expected & mask).sum() / (expected | mask).sum() for mask in matches]
        assert max(ious) == 1 if not rough else max(ious) > 0.9
        mask = masks[int(np.argmax(ious))]
        left, top, right, bottom = mask.box
        assert mask.box == box_of_runs(mask.runs, 300)
        assert mask.crop[0] <= left and mask.crop[1] <= top and mask.crop[2] > right and mask.crop[3] > bottom
        for x, y in mask.points:
            assert mask_of(mask.runs, (300, 400))[int(y), int(x)]
    records = tiled.generate(image)
    assert len(records) == len(objects) and max(len(record['point_coords']) for record in records) > 6
    assert {record['area'] for record in records} == {area_of(mask.runs) for mask in masks}


def test_neighbours_that_only_touch_stay_apart():
    rows, columns = np.mgrid[:100, :300]
    image = scene(
        (100, 300),
        [
            (columns > 10) & (columns < 121) & (rows > 20) & (rows < 80),
            (columns >= 121) & (columns < 250) & (rows > 40),
        ],
    )
    masks = TiledMaskGenerator(Colours(100), 100, 30).masks(image)
    assert sorted(mask.box for mask in masks) == [(11, 21, 120, 79), (121, 41, 249, 99)]


def test_masks_that_no_neighbour_confirms_stay_and_come_last():
    class Forgetful(Colours):
        def masks(self, image):
            matches = super().masks(image)
            return [] if len(self.recorded) == 2 else matches

    rows, columns = np.mgrid[:100, :170]
    image = scene((100, 170), [(rows > 30) & (columns > 50) & (columns < 150), (rows < 20) & (columns < 20)])
    masks = TiledMaskGenerator(Forgetful(100), 100, 30).masks(image)
    assert [mask.box for mask in masks] == [(0, 0, 19, 19), (51, 31, 99, 99)]


def test_memory_is_that_of_a_tile(tmp_path):
    size = (2500, 3000)
    stored = np.lib.format.open_memmap(tmp_path / 'large.npy', 'w+', np.uint8, (*size, 3))
    stored[500:2400, 700:2800] = 10
    stored[100:200, 100:200] = 20
    stored.flush()
    image = np.load(tmp_path / 'large.npy', mmap_mode='r')
    generator = Colours(512)
    tracemalloc.start()
    records = TiledMaskGenerator(generator).generate(image)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (
        sorted(record['area'] for record in records) == [100 * 100, 1900 * 2100]
        and len(generator.recorded) == 7 * 8
    )
    assert peak < 12 * 2**20 < image.nbytes, f'{peak / 2**20:.1f} MiB'


def test_with_a_model():
    torch.manual_seed(0)
    model = build_sam(SIZES)
    generator = SamAutomaticMaskGenerator(
        model,
        4,
        pred_iou_thresh=-1.0,
        stability_score_thresh=0.5,
        stability_score_offset=0.01,
        min_mask_region_area=20,
        output_mode='uncompressed_rle',
    )
    image = np.random.default_rng(0).integers(0, 256, (60, 150, 3), dtype=np.uint8)
    tiled = TiledMaskGenerator(generator)
    assert (tiled.tile, tiled.overlap) == (64, 16)
    records, whole = tiled.generate(image), tiled.generate(image[:, :64])
    assert records and {tuple(record['segmentation']['size']) for record in records} == {(60, 150)}
    assert whole == generator.generate(image[:, :64])
    for overlap in (0, 40):
        with pytest.raises(ValueError, match=f'overlap={overlap} of tiles of 64 pixels'):
            TiledMaskGenerator(generator, 64, overlap)
    with pytest.raises(ValueError, match='join_iou=0'):
        TiledMaskGenerator(generator, join_iou=0)
    with pytest.raises(ValueError, match='an empty image'):
        tiled.generate(image[:0])
