"""Replacements: RoI pooling, max RoI align, softmax focal loss, synchronised batch norm, line NMS."""

import importlib
import itertools
import math
import re
from pathlib import Path

import pytest
import torch

import mmssl.registry  # noqa: F401  installs the import hook
from mmssl.hosts import mmcv_ext, ops_import

pytest.importorskip('mmcv')
needs_ops = pytest.mark.skipif(not ops_import.has_ops(), reason='mmcv has no compiled operators')
# the last five: reversed, half a pixel, across two borders, outside, of the second image
ROIS = torch.tensor(
    [
        [0, 1, 2, 20, 17],
        [0, 0, 0, 27, 23],
        [0, 20, 5, 3, 9],
        [0, 7.4, 7.6, 7.6, 8.1],
        [0, -9, -9, 8, 40],
        [0, 200, 200, 220, 230],
        [1, 3.3, 4.7, 18.2, 11.9],
    ],
    dtype=torch.float64,
)
SCALE = 0.25


def draw_map():
    torch.manual_seed(0)
    return torch.randn(2, 2, 6, 7, dtype=torch.float64)


def pool_loop(features, rois, size, scale):
    """Every bin by itself; the maximum of no pixels is 0."""
    height, width = features.shape[2:]
    out = []
    for image, x1, y1, x2, y2 in rois.tolist():
        left, top = x1 * scale, y1 * scale
        bin_w, bin_h = ((x2 + 1) * scale - left) / size[1], ((y2 + 1) * scale - top) / size[0]

        def bounds(index, length, start, limit):
            first, end = math.floor(index * length + start), math.ceil((index + 1) * length + start)
            return slice(max(first, 0), min(max(end, 0), limit))

        for channel, i, j in itertools.product(range(features.shape[1]), range(size[0]), range(size[1])):
            rows, columns = bounds(i, bin_h, top, height), bounds(j, bin_w, left, width)
            pixels = features[int(image), channel, rows, columns] if bin_w > 0 and bin_h > 0 else None
            out.append(pixels.max() if pixels is not None and pixels.numel() else features.new_zeros(()))
    return torch.stack(out).view(len(rois), features.shape[1], *size)


def assert_same(results, run, tensors, tolerance=1e-9):
    leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    output = run(*leaves)
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    expected = [output, *torch.autograd.grad((output * weights).sum(), leaves)]
    torch.testing.assert_close(results, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize('size', [(2, 3), (1, 1), (7, 7)])
def test_roi_pool_takes_the_maximum_of_every_bin(with_gradients, size):
    features = draw_map()
    results = with_gradients('roi_pool', lambda module, x: module.roi_pool(x, ROIS, size, SCALE), features)
    assert_same(results, lambda x: pool_loop(x, ROIS, size, SCALE), [features])


def test_roi_pool_takes_the_first_of_equals_leaves_nan_out_and_computes_half_precision(with_gradients, swap):
    features = torch.zeros(1, 1, 4, 4)
    features[0, 0, 0, 0] = math.nan
    roi = torch.tensor([[0.0, 0, 0, 3, 3]])
    output, grad = with_gradients('roi_pool', lambda module, x: module.roi_pool(x, roi, 2, 1.0), features)
    assert not output.any()
    assert grad[0, 0].nonzero().tolist() == [[0, 1], [0, 2], [2, 0], [2, 2]]
    assert swap('roi_pool').roi_pool(features.half(), roi.half(), 2, 1.0).dtype == torch.float16
    assert swap('roi_pool').roi_pool(features, roi[:0], 2, 1.0).shape == (0, 1, 2, 2)


@pytest.mark.parametrize('image', [-1.0, 2.0, math.nan])
@pytest.mark.parametrize('mode', ['avg', 'max'])
def test_regions_of_images_outside_the_batch_are_refused(swap, image, mode):
    """torchvision and the compiled operators read memory outside of the features."""
    features, roi = draw_map(), ROIS[:1].clone()
    roi[0, 0] = image
    with pytest.raises(ValueError, match='roi_align: image indices of rois go from'):
        swap('roi_align').roi_align(features, roi, 2, 1.0, 2, mode)
    with pytest.raises(ValueError, match='roi_pool: image indices'):
        swap('roi_pool').roi_pool(features, roi, 2, 1.0)
    with pytest.raises(ValueError, match='deform_roi_pool: image indices'):
        swap('deform_roi_pool').deform_roi_pool(features, roi, None, 2)


def interpolate(plane, y, x):
    """Bilinear sample; up to a pixel outside the border counts on."""
    height, width = plane.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return plane.new_zeros(())
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    low_y, low_x = int(y), int(x)
    high_y, high_x = min(low_y + 1, height - 1), min(low_x + 1, width - 1)
    dy, dx = y - low_y, x - low_x
    upper = (1 - dx) * plane[low_y, low_x] + dx * plane[low_y, high_x]
    return (1 - dy) * upper + dy * ((1 - dx) * plane[high_y, low_x] + dx * plane[high_y, high_x])


def align_loop(features, rois, size, scale, ratio, aligned):
    out = []
    for image, *corners in rois.tolist():
        left, top, right, bottom = (value * scale - 0.5 * aligned for value in corners)
        height, width = bottom - top, right - left
        if not aligned:
            height, width = max(height, 1), max(width, 1)
        rows, columns = (
            ratio or math.ceil(side / bins) for side, bins in zip((height, width), size, strict=True)
        )
        for channel, i, j in itertools.product(range(features.shape[1]), range(size[0]), range(size[1])):
            samples = [
                interpolate(
                    features[int(image), channel],
                    top + (i + (row + 0.5) / rows) * height / size[0],
                    left + (j + (column + 0.5) / columns) * width / size[1],
                )
                for row, column in itertools.product(range(rows), range(columns))
            ]
            out.append(torch.stack(samples).max() if samples else features.new_zeros(()))
    return torch.stack(out).view(len(rois), features.shape[1], *size)


@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('ratio', [0, 2])
def test_roi_align_takes_the_largest_sample(with_gradients, ratio, aligned):
    features = draw_map()
    rois = ROIS[[0, 1, 3, 4, 6]] if aligned else ROIS

    def run(module, x):
        return module.roi_align(x, rois, (2, 3), SCALE, ratio, 'max', aligned)

    results = with_gradients('roi_align', run, features)
    assert_same(results, lambda x: align_loop(x, rois, (2, 3), SCALE, ratio, aligned), [features])
    if ops_import.has_ops():
        compiled = with_gradients('roi_align', run, features, replaced=False)
        torch.testing.assert_close(results, compiled, rtol=1e-9, atol=1e-9)


def test_a_region_without_samples_has_no_maximum_and_low_values_have_one(swap):
    roi_align = swap('roi_align').roi_align
    point = torch.tensor([[0.0, 2, 2, 2, 2]])
    assert not roi_align(torch.ones(1, 1, 4, 4), point, 1, 1.0, 0, 'max', True).any()
    low = torch.full((1, 1, 4, 4), -20000.0)  # the compiled operator on the CPU starts from -10000
    assert roi_align(low, torch.tensor([[0.0, 0, 0, 3, 3]]), 1, 1.0, 2, 'max', True) == -20000


@pytest.mark.parametrize('gamma', [0.0, 0.5, 2.0])
@pytest.mark.parametrize('weighted', [True, False])
def test_softmax_focal_loss_is_the_formula(with_gradients, gamma, weighted):
    torch.manual_seed(0)
    logits, target = torch.randn(5, 3, dtype=torch.float64), torch.tensor([0, 2, 1, 1, -1])
    weight = torch.tensor([0.5, 2, 3], dtype=torch.float64) if weighted else None

    def run(module, x):
        return module.softmax_focal_loss(x, target, gamma, 0.25, weight, 'sum')[None]

    def formula(x):
        p = x.softmax(1)[range(5), target.clamp(min=0)]
        factor = (weight[target.clamp(min=0)] if weighted else 1) * (target >= 0)
        return (-0.25 * (1 - p) ** gamma * p.log() * factor).sum()[None]

    assert_same(with_gradients('focal_loss', run, logits), formula, [logits])


@pytest.mark.parametrize('gamma', [0.0, 0.5, 2.0])
def test_softmax_focal_loss_of_a_certain_prediction_has_a_finite_gradient(with_gradients, gamma):
    logits, target = torch.tensor([[200.0, 0], [0, 200]]), torch.tensor([0, 0])

    def run(module, x):
        return module.softmax_focal_loss(x, target, gamma, 0.25, None, 'sum')

    loss, grad = with_gradients('focal_loss', run, logits)
    assert 20 < loss < 50 and grad.isfinite().all() and not grad[0].any()


@pytest.fixture
def process_group(tmp_path):
    """A group of one process, without which mmcv builds no synchronised batch norm."""
    torch.distributed.init_process_group('gloo', init_method=f'file://{tmp_path}/store', world_size=1, rank=0)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize('mode', ['default', 'N'])
def test_synchronised_batch_norm_is_batch_norm_in_one_process(swap, process_group, mode):
    module = swap('sync_bn')
    torch.manual_seed(0)
    own, plain = module.SyncBatchNorm(3, stats_mode=mode), torch.nn.BatchNorm2d(3)
    with torch.no_grad():
        plain.weight.uniform_(0.5, 2)
        plain.bias.normal_()
    own.load_state_dict(plain.state_dict())
    for _ in range(2):
        x = (3 * torch.randn(2, 3, 4, 5) + 1).requires_grad_()
        results = []
        for layer in (own, plain):
            output = layer(x)
            gradients = torch.autograd.grad((output**3).sum(), [x, layer.weight, layer.bias])
            results.append([output, *gradients, layer.running_mean, layer.running_var])
        torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)
    before = own.running_mean.clone()
    assert own(torch.zeros(0, 3, 4, 5)).shape == (0, 3, 4, 5) and torch.equal(own.running_mean, before)
    torch.testing.assert_close(own.eval()(x), plain.eval()(x), rtol=1e-4, atol=1e-4)
    assert own.train()(x.half()).dtype == torch.float16


def lane_distance(a, b):
    """Mean distance of two lanes over the rows of both; None if they share none."""
    starts = [int(lane[2] * (len(lane) - 6) + 0.5) for lane in (a, b)]
    ends = [start + int(lane[4]) - 1 for start, lane in zip(starts, (a, b), strict=True)]
    rows = range(max(starts), min(*ends, len(a) - 6) + 1)
    return sum(abs(a[5 + row] - b[5 + row]) for row in rows) / len(rows) if rows else None


def test_lanes_near_a_better_one_are_removed(swap):
    generator = torch.Generator().manual_seed(0)
    count, rows = 30, 72
    columns = torch.randint(0, 4, (count, 1), generator=generator) * 100.0
    lanes = torch.zeros(count, 5 + rows)
    lanes[:, 2] = torch.rand(count, generator=generator) / 2
    lanes[:, 4] = torch.randint(0, 60, (count,), generator=generator).float()
    lanes[:, 5:] = columns + 30 * torch.rand(count, rows, generator=generator)
    scores = torch.rand(count, generator=generator).sort(descending=True)[0]
    for top_k in (count, 3):
        keep, number, parent = swap('line_nms').line_nms(lanes, scores, 20, top_k)
        expected = []
        for index in range(count):
            distances = [lane_distance(lanes[other].tolist(), lanes[index].tolist()) for other in expected]
            if not any(distance is not None and distance < 20 for distance in distances):
                expected.append(index)
        assert keep[: int(number)].tolist() == expected[:top_k]
        assert all(int(parent[index]) == place + 1 for place, index in enumerate(expected[:top_k]))
        assert int(parent.max()) == int(number)
    # unsorted, the operator compares the second of the input with itself, as mmcv's own test expects
    swapped = lanes[[0, 2, 1]], scores[[0, 2, 1]]
    assert swap('line_nms').line_nms(*swapped, 1e-3, 3)[0].tolist() == [0, 2, 0]
    keep, number, parent = swap('line_nms').line_nms(lanes[:0], scores[:0], 20, 5)
    assert not len(keep) and not int(number) and not len(parent)


def operators():
    """Names of all compiled functions that mmcv.ops calls, by module."""
    import mmcv

    folder = Path(mmcv.__file__).parent / 'ops'
    for file in sorted(folder.glob('*.py')):
        for names in re.findall(r"load_ext\(\s*'_ext',\s*\[(.*?)\]", file.read_text(), re.DOTALL):
            yield from ((file.stem, name) for name in re.findall(r"'(\w+)'", names))


def test_every_operator_is_replaced_or_refused_by_name(monkeypatch):
    monkeypatch.setattr(ops_import, 'missing_operator', ImportError)  # finding the command takes a second
    stand_in = ops_import.StandInModule('stand-in')
    names = {name for _, name in operators()}
    assert len(names) > 90 and names >= mmcv_ext.PROVIDED
    for name in names - mmcv_ext.PROVIDED:
        with pytest.raises(ImportError, match=f'^{name}$'):
            getattr(stand_in, name)()


def test_operators_that_the_toolboxes_import_are_replaced():
    """No module of mmcv.ops of which mmdet, mmseg or mmpretrain use a name lacks a function."""
    lacking = {module for module, name in operators() if name not in mmcv_ext.PROVIDED}
    lacking.remove('nms')  # only for rotated boxes
    used = set()
    for toolbox in ('mmdet', 'mmseg', 'mmpretrain'):
        folder = Path(pytest.importorskip(toolbox).__file__).parent
        for file in folder.glob('**/*.py'):
            text = '' if '.mim' in file.parts else file.read_text()
            for names in re.findall(r'from mmcv\.ops(?:\.\w+)? import (\([^)]*\)|[^\n(]*)', text):
                used |= set(re.findall(r'\w+', re.sub(r' as \w+', '', names)))
    assert {'RoIPool', 'line_nms', 'sigmoid_focal_loss', 'CARAFEPack', 'PSAMask'} <= used
    missing = {
        module for module in lacking if used & set(vars(importlib.import_module(f'mmcv.ops.{module}')))
    }
    assert not missing
