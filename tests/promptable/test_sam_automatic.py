"""Automatic masks: the records of the official class, run lengths by hand, and what is upscaled."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement, InstanceData
from pycocotools import mask as coco

from mmssl.evaluation.automatic import AverageRecall
from mmssl.promptable import (
    SAM,
    InteractiveSAM,
    SamAutomaticMaskGenerator,
    SamPredictor,
    TiledMaskGenerator,
    automatic,
    build_sam,
)
from mmssl.promptable.confident_masks import confidence_mask
from mmssl.promptable.fast import confident_masks as fast_confident_masks
from mmssl.promptable.fast.full_size_masks import PartialResizer
from mmssl.promptable.full_size_masks import CropSizes, full_size_masks
from mmssl.promptable.rle import (
    area_of,
    box_of_runs,
    coco_code,
    counts_of,
    covered,
    mask_of,
    rectangle,
    runs_of,
    runs_of_masks,
)

SIZE = 96
ENCODER = dict(
    img_size=SIZE, embed_dim=32, depth=3, num_heads=2, global_attn_indexes=(1,), window_size=4, out_chans=32
)
SIZES = dict(
    image_encoder=ENCODER,
    mask_decoder=dict(transformer=dict(num_heads=4, mlp_dim=64), iou_head_hidden_dim=32),
)


def photo(name='astronaut', size=(120, 150)):
    data = pytest.importorskip('skimage.data')
    from PIL import Image

    return np.asarray(Image.fromarray(getattr(data, name)()).resize(size[::-1]))


@pytest.fixture(scope='module')
def pair(official_sam):
    """Our model and the official one in float64, whose logits agree to the last bit in float32."""
    theirs, ours = official_sam(ENCODER, confident=True), build_sam(SIZES)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    for model in (theirs, ours):
        model.double()
        model.prompt_encoder.pe_layer.float()
    coords = ours.prompt_encoder.get_dense_pe().double()
    ours.prompt_encoder.get_dense_pe = lambda: coords
    theirs.mask_decoder.register_forward_hook(
        lambda module, selected, out: tuple(value.float() for value in out)
    )
    return ours, theirs


def thresholds(models, image, fraction=0.7, offset=1.0):
    """Thresholds with an effect; sets a mask threshold that leaves little of the image to a mask."""
    package = pytest.importorskip('segment_anything')
    predictor = package.SamPredictor(models[1])
    predictor.set_image(image)
    points = torch.rand(25, 1, 2, generator=torch.Generator().manual_seed(0)) * min(predictor.input_size)
    logits = predictor.predict_torch(points, torch.ones(25, 1))[2]
    for model in models:
        model.mask_threshold = float(logits.quantile(0.99))
    every = package.SamAutomaticMaskGenerator(
        models[1],
        5,
        pred_iou_thresh=-1.0,
        stability_score_thresh=-1.0,
        box_nms_thresh=1.1,
        stability_score_offset=offset,
    ).generate(image)
    iou = float(np.quantile([record['predicted_iou'] for record in every], 1 - fraction))
    stable = [record['stability_score'] for record in every if record['predicted_iou'] > iou]
    return dict(
        pred_iou_thresh=iou,
        stability_score_thresh=float(np.nanquantile(stable, 0.3)),
        stability_score_offset=offset,
    )


def same(mine, theirs):
    """Compare records, all but scores exactly, and return their number."""
    assert len(mine) == len(theirs)
    for item, other in zip(mine, theirs, strict=True):
        assert list(item) == list(other)
        for key in item:
            if key in ('predicted_iou', 'stability_score'):
                assert type(item[key]) is float and item[key] == pytest.approx(
                    other[key], abs=1e-5, nan_ok=True
                )
            elif key == 'segmentation' and not isinstance(item[key], dict):
                assert (
                    item[key].dtype == bool
                    and item[key].strides == other[key].strides
                    and np.array_equal(item[key], other[key])
                )
            else:
                assert item[key] == other[key], key
    return len(mine)


CASES = {
    'whole': dict(points_per_side=8),
    'rle': dict(points_per_side=8, points_per_batch=7, output_mode='uncompressed_rle', box_nms_thresh=0.9),
    'coco': dict(points_per_side=6, output_mode='coco_rle', box_nms_thresh=0.95),
    'crops': dict(points_per_side=6, crop_n_layers=1, crop_nms_thresh=0.8, box_nms_thresh=0.9),
    'fewer points in crops': dict(
        points_per_side=8,
        crop_n_layers=2,
        crop_n_points_downscale_factor=2,
        crop_overlap_ratio=0.2,
        crop_nms_thresh=0.9,
        output_mode='uncompressed_rle',
    ),
    'grids': dict(points_per_side=None, point_grids=[np.random.default_rng(0).random((9, 2))]),
    'small regions': dict(
        points_per_side=6, min_mask_region_area=60, box_nms_thresh=0.95, crop_nms_thresh=0.97
    ),
    'small regions of crops': dict(
        points_per_side=5, min_mask_region_area=2000, crop_n_layers=1, box_nms_thresh=0.9
    ),
}


@pytest.mark.parametrize('case', CASES)
def test_records_of_the_official_class_on_photographs(pair, case):
    from segment_anything import SamAutomaticMaskGenerator as Official

    ours, theirs = pair
    counts = []
    for name, size in [('astronaut', (120, 150)), ('coffee', (96, 72))]['crops' in case :]:
        image = photo(name, size)
        arguments = {**thresholds(pair, image), **CASES[case]}
        assert arguments['pred_iou_thresh'] > 0
        counts.append(
            same(
                SamAutomaticMaskGenerator(ours, **arguments).generate(image),
                Official(theirs, **arguments).generate(image),
            )
        )
    assert min(counts) > 1 and max(counts) > 3, counts


@pytest.mark.parametrize(
    ('input_size', 'original_size'),
    [
        ((256, 256), (600, 600)),
        ((185, 256), (160, 221)),
        ((256, 160), (411, 257)),
        ((256, 256), (256, 256)),
        ((130, 256), (130, 256)),
        ((256, 90), (60, 21)),
        ((192, 256), (1023, 1365)),
        ((256, 7), (701, 19)),
        ((256, 256), (65, 64)),
    ],
)
@pytest.mark.parametrize('low_res', [64, 128, 60])  # 60: whole masks alone
def test_parts_of_a_mask_are_those_of_the_whole_to_the_last_bit(input_size, original_size, low_res):
    generator, rng = torch.Generator().manual_seed(low_res), np.random.default_rng(low_res)
    model = SimpleNamespace(
        mask_threshold=0.0,
        image_encoder=SimpleNamespace(img_size=256),
        prompt_encoder=SimpleNamespace(mask_input_size=(low_res, low_res)),
    )
    model.postprocess_masks = partial(SAM.postprocess_masks, model)
    resizer = PartialResizer(model, CropSizes(input_size, original_size, original_size[0]))
    smaller = 0
    for number in range(10):
        level = (-1.0, 0.3)[number % 2]
        logits = torch.randn(low_res, low_res, generator=generator) * 3 - 40
        first = [rng.integers(0, max(edge * low_res // 256, 1)) for edge in input_size]
        logits[first[0] : first[0] + rng.integers(1, 20), first[1] : first[1] + rng.integers(1, 20)] += 42
        expected = model.postprocess_masks(logits[None, None], input_size, original_size)[0, 0].numpy()
        part, left, top = resizer(logits, level)
        high, columns_count = part.shape
        recorded = expected[top : top + high, left : left + columns_count] > level
        assert np.array_equal(part > level, recorded) if recorded.any() else not (part > level).any()
        assert recorded.sum() == (expected > level).sum(), 'nothing outside'
        if recorded.any():
            assert np.array_equal(
                part[recorded], expected[top : top + high, left : left + columns_count][recorded]
            )
            smaller += part.size < expected.size / 2
    assert smaller == 0 if low_res == 60 else smaller > 5 or sum(original_size) < 400 or min(input_size) < 10


def random_masks():
    rng = np.random.default_rng(0)
    shapes = [(1, 1), (1, 7), (6, 1), (5, 8), (9, 4), (12, 12)]
    masks = [rng.random(shape) < fraction for shape in shapes for fraction in (0, 0.1, 0.5, 0.9, 1)]
    columns = np.zeros((6, 9), bool)
    columns[:, 2:5] = True  # a run over three whole columns
    columns[3:, 6] = columns[:2, 7] = True  # from one column into the next
    return [*masks, columns]


def test_runs_by_pycocotools():
    for mask in random_masks():
        runs, (height, width) = runs_of(mask), mask.shape
        assert (
            np.array_equal(mask_of(runs, mask.shape), mask)
            and (np.diff(runs) > 0).all()
            and len(runs) % 2 == 0
        )
        expected = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
        counts = counts_of(runs, mask.size).tolist()
        assert coco_code(counts, mask.shape) == dict(size=[height, width], counts=expected['counts'].decode())
        assert np.array_equal(runs_of_masks(torch.from_numpy(mask)[None])[0], runs)
        assert area_of(runs) == mask.sum()
        left, top, columns_count, high = (int(value) for value in coco.toBbox(expected))
        assert box_of_runs(runs, height) == (
            (left, top, left + columns_count - 1, top + high - 1) if mask.any() else (0, 0, 0, 0)
        )
        larger = np.zeros((height + 5, width + 7), bool)
        larger[2 : 2 + height, 4 : 4 + width] = mask
        assert np.array_equal(runs_of(mask, height + 5, 4, 2), runs_of(larger))


def test_what_masks_cover_together():
    rng = np.random.default_rng(1)
    for shape in ((5, 7), (1, 9), (8, 1), (20, 20)):
        masks = [rng.random(shape) < fraction for fraction in (0.3, 0.6, 0.9)] + [np.zeros(shape, bool)]
        runs = [runs_of(mask) for mask in masks]
        for chosen in ((0, 1), (1, 2, 0), (3, 0), (3, 3), (0, 0)):
            depth = sum(masks[number].astype(int) for number in chosen)
            for minimum in range(1, len(chosen) + 1):
                got = covered(*(runs[number] for number in chosen), min_count=minimum)
                assert np.array_equal(got, runs_of(depth >= minimum)), (chosen, minimum)
    box = np.zeros((9, 12), bool)
    box[2:5, 3:8] = True
    assert np.array_equal(rectangle(3, 2, 8, 5, 9), runs_of(box)) and rectangle(0, 0, 12, 9, 9).tolist() == [
        0,
        108,
    ]


def single(theirs):
    """Our model with the official weights, as it runs: in float32."""
    ours = build_sam(SIZES)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours


def alike(mine, theirs):
    """Compare records, of whose masks two pixels may be rounded differently, and return their number."""
    assert len(mine) == len(theirs)
    differing = 0
    for item, other in zip(mine, theirs, strict=True):
        assert (
            item['bbox'] == other['bbox']
            and item['point_coords'] == other['point_coords']
            and item['crop_box'] == other['crop_box']
        )
        differing += int((item['segmentation'] != other['segmentation']).sum())
    assert differing <= 2, differing
    return len(mine)


def coco_photos(root):
    from PIL import Image

    paths = sorted((root / 'coco_mini/val2017').rglob('*.jpg'))[:3]
    return [np.asarray(Image.open(path).convert('RGB').resize((160, 120))) for path in paths]


@pytest.mark.parametrize('source', ['skimage', 'coco'])
def test_photographs_in_single_precision(source, request, official_sam):
    Official = pytest.importorskip('segment_anything').SamAutomaticMaskGenerator
    images = (
        [photo('chelsea'), photo('rocket', (90, 128))]
        if source == 'skimage'
        else coco_photos(request.getfixturevalue('data_root'))
    )
    theirs = official_sam(ENCODER, confident=True)
    ours, counts = single(theirs), []
    for image in images:
        arguments = dict(
            thresholds((ours, theirs), image), points_per_side=6, box_nms_thresh=0.9, crop_n_layers=1
        )
        counts.append(
            alike(
                SamAutomaticMaskGenerator(ours, **arguments).generate(image),
                Official(theirs, **arguments).generate(image),
            )
        )
    assert max(counts) > 3, counts


def test_masks_that_are_not_confident_are_not_upscaled(monkeypatch):
    torch.manual_seed(0)
    model = build_sam(SIZES)
    predictor = SamPredictor(model)
    predictor.set_image(photo())
    decoder, pe, upscaled = model.mask_decoder, model.prompt_encoder.get_dense_pe(), []
    upscale = fast_confident_masks.masks_of_tokens_in_blocks
    monkeypatch.setattr(
        fast_confident_masks,
        'masks_of_tokens_in_blocks',
        lambda decoder, tokens, *rest: upscaled.append(len(tokens)) or upscale(decoder, tokens, *rest),
    )
    with torch.no_grad():
        sparse, dense = model.prompt_encoder((torch.rand(11, 1, 2) * 70, torch.ones(11, 1)), None, None)
        logits, ious = decoder(predictor.features, pe, sparse, dense, True)
        for min_iou in (None, float(ious.quantile(0.8)), float(ious.max()), -9.0):
            upscaled.clear()
            confident = confidence_mask(ious, min_iou)
            got, got_ious = fast_confident_masks.confident_masks(
                decoder, predictor.features, pe, sparse, dense[:1], min_iou
            )
            torch.testing.assert_close(got_ious, ious, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(got, logits[confident], atol=1e-4, rtol=1e-4)
            assert sum(upscaled) == confident.any(1).sum()
    assert got.shape == (33, 24, 24)


def test_nothing_survives():
    model = build_sam(SIZES)
    for arguments in (dict(pred_iou_thresh=1e9), dict(pred_iou_thresh=-1.0, stability_score_thresh=1.5)):
        for crops in (0, 1):
            generator = SamAutomaticMaskGenerator(
                model, 3, crop_n_layers=crops, min_mask_region_area=10 * crops, **arguments
            )
            assert generator.generate(photo()) == []
    assert SamAutomaticMaskGenerator(model, None, point_grids=[np.zeros((0, 2))]).generate(photo()) == []


def test_memory_does_not_grow_with_the_points(monkeypatch):
    torch.manual_seed(0)
    model, image = build_sam(SIZES), photo(size=(300, 300))
    counts = {}
    for side in (4, 16):
        sizes = counts.setdefault(side, [])
        monkeypatch.setattr(
            automatic,
            'full_size_masks',
            lambda logits, *rest, sizes=sizes: sizes.append(len(logits)) or full_size_masks(logits, *rest),
        )
        SamAutomaticMaskGenerator(
            model, side, points_per_batch=8, pred_iou_thresh=-9.0, stability_score_thresh=-1.0
        ).generate(image)
    assert max(counts[4]) == max(counts[16]) == 24 and len(counts[16]) == 32


@pytest.mark.parametrize('tile', [None, 80])
def test_progress_is_reported_for_each_batch(tile):
    torch.manual_seed(0)
    generator = SamAutomaticMaskGenerator(
        build_sam(SIZES), 4, points_per_batch=6, pred_iou_thresh=-1.0, crop_n_layers=1, output_mode='coco_rle'
    )
    if tile is not None:
        generator = TiledMaskGenerator(generator, tile)
    image, calls = photo(), []
    total = generator.num_batches(image.shape[:2])
    records = generator.generate(image, progress=lambda done, count: calls.append((done, count)))
    assert calls == [(done, total) for done in range(1, total + 1)] and total % 15 == 0
    assert records == generator.generate(image)


def test_a_model_in_half_precision():
    torch.manual_seed(0)
    generator = SamAutomaticMaskGenerator(
        build_sam(SIZES).bfloat16(), 4, pred_iou_thresh=0.001, stability_score_thresh=-1.0
    )
    generator.generate(photo())
    assert next(generator.predictor.model.parameters()).dtype == torch.bfloat16


def test_wrong_arguments_are_named():
    model = build_sam(SIZES)
    for arguments, words in (
        (dict(points_per_side=None), 'give points_per_side or point_grids'),
        (dict(point_grids=[np.zeros((1, 2))]), 'both or neither'),
        (dict(output_mode='png'), "output_mode='png'; one of 'binary_mask'"),
        (dict(points_per_batch=0), 'points_per_batch=0'),
        (
            dict(points_per_side=4, crop_n_layers=2, crop_n_points_downscale_factor=3),
            r'\[4, 1, 0\] points per side',
        ),
        (dict(points_per_side=0), r'points_per_side=0 leaves \[0\]'),
        (
            dict(points_per_side=None, crop_n_layers=1, point_grids=[np.zeros((1, 2))]),
            '1 point_grids for the whole',
        ),
    ):
        with pytest.raises(ValueError, match=words):
            SamAutomaticMaskGenerator(model, **arguments)
    with pytest.raises(TypeError, match='give uint8'):
        SamAutomaticMaskGenerator(model).generate(photo() / 255)
    with pytest.raises(ValueError, match='an empty image'):
        SamAutomaticMaskGenerator(model).generate(photo()[:0])


def test_an_encoded_image_gives_the_same():
    torch.manual_seed(0)
    model = build_sam(SIZES)
    generator = SamAutomaticMaskGenerator(
        model,
        4,
        pred_iou_thresh=-1.0,
        stability_score_thresh=-1.0,
        min_mask_region_area=30,
        output_mode='coco_rle',
    )
    expected = generator.generate(photo())
    predictor = SamPredictor(model)
    predictor.set_image(photo())
    assert (
        expected
        and generator.generate_encoded(predictor.features, predictor.input_size, predictor.original_size)
        == expected
    )
    with pytest.raises(ValueError, match='crop_n_layers=1 needs the image'):
        SamAutomaticMaskGenerator(model, 4, crop_n_layers=1).generate_encoded(
            predictor.features, (77, 96), (120, 150)
        )
    with pytest.raises(ValueError, match=r'shape \(1, 32, 5, 6\); give \(1, 32, 6, 6\)'):
        generator.generate_encoded(predictor.features[:, :, :5], (77, 96), (120, 150))


def test_average_recall_in_the_evaluation_of_a_training():
    torch.manual_seed(0)
    arguments = dict(points_per_side=3, pred_iou_thresh=-1.0, stability_score_thresh=-1.0)
    model = InteractiveSAM(build_sam(SIZES), clicks=dict(clicks=1, box=False), automatic=arguments).eval()
    inputs = torch.randn(1, 3, 72, 96)
    sample = BaseDataElement(metainfo=dict(img_shape=(72, 96), img_path='x.jpg'))
    sample.gt_instances = InstanceData(masks=torch.ones(1, 36, 48, dtype=torch.bool))
    model.predict(inputs, [sample])
    masks = [torch.from_numpy(coco.decode(code)).bool() for code in sample.automatic.masks]
    assert len(masks) > 0 and masks[0].shape == (36, 48) and len(sample.automatic.scores) == len(masks)
    metric = AverageRecall(field='automatic')
    metric.process(
        None, [dict(sample.to_dict(), gt_instances=dict(masks=torch.stack([masks[0], ~masks[0]])))]
    )
    assert metric.evaluate(1)['AR@1000'] == pytest.approx(50)
    with pytest.raises(ValueError, match="needs masks in 'pred_instances'"):
        AverageRecall().process(None, [sample.to_dict()])
    with pytest.raises(ValueError, match='points_per_batch=0'):
        InteractiveSAM(build_sam(SIZES), automatic=dict(points_per_batch=0))
