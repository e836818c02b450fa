"""Cases for the fast forms of the operators."""

import torch
from fast_case import Case

from mmssl.ops.deform_ps_roi_pool import BinSamples, bin_starts
from mmssl.ops.ps_roi_pool import bin_edges


def randn(*shape, dtype, grad=True):
    return torch.randn(*shape, dtype=torch.float64).to(dtype).requires_grad_(grad)


def strided(*shape, dtype, grad=True):
    """Values with gaps between them."""
    return randn(*shape, 2, dtype=dtype, grad=False)[..., 0].requires_grad_(grad)


def attention_inputs(queries, keys, make=randn, bias=None):
    def inputs(dtype):
        tensors = [make(2, 3, length, 8, dtype=dtype) for length in (queries, keys, keys)]
        if bias is not None:
            tensors.append(make(3, queries, keys, dtype=dtype) if bias else None)
        return tuple(tensors)

    return inputs


ATTENTION = [
    Case('few-keys', attention_inputs(5, 7)),
    Case('one-key', attention_inputs(5, 1)),
    Case('no-query', attention_inputs(0, 7)),
    Case('most-keys', attention_inputs(9, 128)),
    Case('too-many-keys', attention_inputs(9, 129), declined=True),
    Case('bfloat16', attention_inputs(9, 300), dtypes=(torch.bfloat16,), tolerance=3e-2),
    Case('strided', attention_inputs(5, 7, strided)),
]
BIASED = [
    Case('bias', attention_inputs(7, 7, bias=True)),
    Case('no-bias', attention_inputs(7, 7, bias=False)),
    Case('strided', attention_inputs(7, 7, strided, bias=True)),
    Case('long', attention_inputs(200, 200, bias=True)),
]


def on_grid(height, width, batch=2, heads=2, make=randn, tables=True, grad=True):
    def inputs(dtype):
        tensors = [make(batch, heads, height * width, 4, dtype=dtype, grad=grad) for _ in range(3)]
        rel = [make(2 * size - 1, 4, dtype=dtype, grad=grad) if tables else None for size in (height, width)]
        return (*tensors, *rel, (height, width))

    return inputs


# grids of more than 400 positions
BY_ROWS = [
    Case('wide', on_grid(7, 61), gradients=False),
    Case('high', on_grid(401, 1), gradients=False),
    Case('several-chunks', on_grid(21, 51, batch=1, heads=3), gradients=False),
    Case('strided', on_grid(21, 20, make=strided), gradients=False),
    Case('bfloat16', on_grid(21, 20), gradients=False, dtypes=(torch.bfloat16,), tolerance=5e-2),
    Case('empty', on_grid(21, 20, batch=0), gradients=False),
    Case('short', on_grid(20, 20), gradients=False, declined=True),
    Case('without-tables', on_grid(21, 20, tables=False), gradients=False, declined=True),
]
AUGMENTED = [
    Case('wide', on_grid(7, 61)),
    Case('high', on_grid(401, 1)),
    Case('strided', on_grid(21, 20, make=strided)),
    Case('empty', on_grid(21, 20, batch=0)),
    Case('short', on_grid(20, 20), declined=True),
    Case('without-tables', on_grid(21, 20, tables=False), declined=True),
]


def windows(height, width, size, padding=True, make=randn):
    def inputs(dtype):
        tables = make(2 * size - 1, 4, dtype=dtype), make(2 * size - 1, 4, dtype=dtype)
        return (
            make(2, height, width, 24, dtype=dtype),
            2,
            size,
            *tables,
            make(24, dtype=dtype) if padding else None,
        )

    return inputs


WINDOWS = [
    Case('whole', windows(6, 6, 3), gradients=False),
    Case('padded', windows(7, 5, 3), gradients=False),
    Case('padded-with-zeros', windows(7, 5, 3, padding=False), gradients=False),
    Case('smaller-than-a-window', windows(2, 2, 3), gradients=False),
    Case('one-token', windows(1, 1, 1), gradients=False),
    Case('bfloat16', windows(6, 6, 3), gradients=False, dtypes=(torch.bfloat16,), declined=True),
]


def sums(rows, bags, size, dim, make=randn):
    def inputs(dtype):
        index = torch.randint(0, max(rows, 1), (bags, size))
        return make(rows, dim, dtype=dtype), index, make(bags, size, dtype=dtype)

    return inputs


WEIGHTED_SUM = [
    Case('sums', sums(20, 30, 4, 5)),
    Case('one-column', sums(20, 30, 4, 1)),
    Case('one-row', sums(1, 1, 1, 1)),
    Case('unused-rows', sums(500, 3, 2, 5)),
    Case('no-output', sums(20, 0, 4, 5)),
    Case('strided-weights', sums(20, 30, 4, 5, make=strided)),
]


def samples(groups, offset_groups, size, channels=8, taps=9, make=randn):
    """Arguments of the im2col product of a deformable convolution."""

    def inputs(dtype):
        batch, positions = size
        rows = batch * positions * taps * offset_groups
        table = make(40 * offset_groups, channels // offset_groups, dtype=dtype)
        index = torch.randint(0, len(table), (rows, 4), dtype=torch.int32)
        weight = make(rows, 4, dtype=dtype)
        kernel = make(groups, 6 // groups, taps * channels // groups, dtype=dtype)
        return table, index, weight, kernel, size, taps

    return inputs


SAMPLED_PRODUCT = [
    Case('one-group', samples(1, 1, (2, 30))),
    Case('groups', samples(2, 4, (2, 30))),
    Case('one-pixel', samples(1, 1, (1, 1))),
    Case('no-image', samples(1, 1, (0, 30))),
    Case('one-channel', samples(1, 1, (2, 30), channels=1)),
    Case('several-chunks', samples(1, 1, (2, 250), channels=512)),
    Case('strided-weights', samples(2, 1, (2, 30), make=strided)),
]


def regions(batch, size, count=12):
    """RoIs, some of them empty, outside the map or without an area."""
    height, width = size
    corners = torch.rand(count, 2) * torch.tensor([width * 16, height * 16]) - 16
    boxes = torch.cat((corners, corners + torch.rand(count, 2) * 120), 1)
    odd = [
        [0, 0, width * 16 - 1, height * 16 - 1],
        [8, 8, 8, 8],
        [-300, -300, -200, -200],
        [5000, 5000, 6000, 6000],
        [40, 40, 10, 10],
        [float('nan'), 0, 9, 9],
    ]
    boxes = torch.cat((boxes, torch.tensor(odd)))[: count and count + len(odd)]
    return torch.cat(((torch.arange(len(boxes)) % max(batch, 1))[:, None], boxes), 1)


def pooled(vote, batch=2, size=(9, 11), count=12, convention='caffe', layout=torch.contiguous_format):
    def inputs(dtype):
        rois = regions(batch, size, count).to(dtype)
        features = randn(batch, 3 * 9, *size, dtype=dtype, grad=False)
        features = features.contiguous(memory_format=layout).requires_grad_()
        edges = bin_edges(rois, 3, 1 / 16, size, convention)
        return features, rois[:, 0].long(), edges, vote

    return inputs


# on small maps the bins use most pixels, on large ones few: the two take different paths
PS_ROI_POOL = [
    Case(f'{name}-{"vote" if vote else "bins"}', pooled(vote, **settings))
    for vote in (False, True)
    for name, settings in {
        'dense': {},
        'dense-one-image': {'batch': 1},
        'sparse': {'size': (40, 50)},
        'sparse-one-image': {'batch': 1, 'size': (40, 50)},
        'torchvision': {'convention': 'torchvision'},
        'channels-last': {'layout': torch.channels_last},
        'sparse-channels-last': {'size': (40, 50), 'layout': torch.channels_last},
        'one-pixel': {'size': (1, 1)},
        'one-row': {'size': (1, 7)},
        'no-region': {'count': 0},
        'no-image': {'batch': 0, 'count': 0},
    }.items()
]


def deformed(classes, vote=False, batch=2, size=(6, 7), count=5, depth=1, layout=torch.contiguous_format):
    def inputs(dtype):
        rois = regions(batch, size, count).to(dtype)
        x, step_x, width = bin_starts(rois[:, 1], rois[:, 3], 3, 1 / 16, 4)
        y, step_y, height = bin_starts(rois[:, 2], rois[:, 4], 3, 1 / 16, 4)
        offset = 0.1 * randn(2, len(rois), classes, 3, 3, dtype=dtype, grad=False)
        x = x[:, None, None, :] + offset[0] * width.view(-1, 1, 1, 1)
        y = y[:, None, :, None] + offset[1] * height.view(-1, 1, 1, 1)
        part = torch.arange(9).view(3, 3)
        features = randn(batch, classes * depth * 9, *size, dtype=dtype, grad=False)
        features = features.contiguous(memory_format=layout).unflatten(1, (classes, depth, 9))
        samples = BinSamples(
            rois[:, 0].long(), part, x.requires_grad_(), y.requires_grad_(), step_x, step_y, 4
        )
        return features.requires_grad_(), samples, vote

    return inputs


DEFORM_PS_ROI_POOL = [
    Case('classes', deformed(3)),
    Case('vote', deformed(3, vote=True)),
    Case('one-image', deformed(3, batch=1)),
    Case('channels-last', deformed(3, layout=torch.channels_last)),
    Case('one-pixel', deformed(3, size=(1, 1))),
    Case('one-row', deformed(3, size=(1, 7))),
    Case('no-region', deformed(3, count=0)),
    Case('no-image', deformed(3, batch=0, count=0)),
    Case('one-class', deformed(1), declined=True),
    Case('several-maps', deformed(2, depth=2), declined=True),
]


# Triton's interpreter takes about ten milliseconds for each bin and block of channels, so that these are few
SMALL_ROIS = [[0, 0, 0, 175, 143], [1, -40, 20, 30, 60], [0, 500, 500, 600, 600], [1, float('nan'), 0, 9, 9]]


def pooled_small(vote=False, count=4, batch=2, size=(9, 11), channels=3, layout=torch.contiguous_format):
    def inputs(dtype):
        rois = torch.tensor(SMALL_ROIS, dtype=dtype)[:count]
        features = randn(batch, channels * 4, *size, dtype=dtype, grad=False)
        features = features.contiguous(memory_format=layout).requires_grad_()
        return features, rois[:, 0].long(), bin_edges(rois, 2, 1 / 16, size, 'caffe'), vote

    return inputs


def deformed_small(classes=2, depth=1, vote=False, count=2, size=(6, 7), num_samples=2, num_bins=2, batch=2):
    def inputs(dtype):
        rois = torch.tensor(SMALL_ROIS, dtype=dtype)[:count]
        x, step_x, width = bin_starts(rois[:, 1], rois[:, 3], num_bins, 1 / 16, num_samples)
        y, step_y, height = bin_starts(rois[:, 2], rois[:, 4], num_bins, 1 / 16, num_samples)
        x = x[:, None, None, :]
        y = y[:, None, :, None]
        if classes:
            offset = 0.1 * randn(2, count, classes, num_bins, num_bins, dtype=dtype, grad=False)
            x = x + offset[0] * width.view(-1, 1, 1, 1)
            y = y + offset[1] * height.view(-1, 1, 1, 1)
        part = torch.arange(num_bins**2).view(num_bins, num_bins)
        features = randn(batch, max(classes, 1), depth, num_bins**2, *size, dtype=dtype)
        image = rois[:, 0].long()
        samples = BinSamples(image, part, x.requires_grad_(), y.requires_grad_(), step_x, step_y, num_samples)
        return features, samples, vote

    return inputs


FLOAT32 = (torch.float32,)


def images_to_normalize(dtype=torch.uint8, channels=3, values=3, reverse=True, layout=None, mean=True):
    def inputs(precision):
        images = torch.randint(256, (2, channels, 5, 4)).to(dtype)
        statistics = [
            torch.tensor(numbers[:values]).view(-1, 1, 1).to(precision)
            for numbers in ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
        ]
        return images, *(statistics if mean else (None, None)), reverse, layout or torch.preserve_format

    return inputs


def tensors_to_scale(count=8, size=3, dtypes=1):
    def inputs(dtype):
        tensors = [torch.randn(size, index).to(dtype) for index in range(count)]  # the first one is empty
        tensors.append(torch.randn(2, 3, 4, 5).to(dtype).to(memory_format=torch.channels_last))
        tensors.append(torch.randn(300, 300).to(dtype if dtypes == 1 else torch.float16))
        return tensors, torch.randn(len(tensors)).to(dtype)

    return inputs


SCALE_EACH = [
    Case('shapes', tensors_to_scale(), gradients=False),
    Case('few', tensors_to_scale(count=2), gradients=False, declined=True),
    Case('dtypes', tensors_to_scale(dtypes=2), gradients=False, declined=True),
]
NORMALIZE = [
    Case('bytes', images_to_normalize(), tolerance=3e-7),
    Case('floats', images_to_normalize(torch.float32, reverse=False), tolerance=3e-7),
    Case('channels-last', images_to_normalize(layout=torch.channels_last), tolerance=3e-7),
    Case('gray', images_to_normalize(channels=1, values=1), tolerance=3e-7),
    Case('without-mean', images_to_normalize(mean=False), declined=True),
]
TRITON_PS_ROI_POOL = [
    Case('bins', pooled_small()),
    Case('vote', pooled_small(vote=True, count=2)),
    Case('channels-last', pooled_small(layout=torch.channels_last, count=2), dtypes=FLOAT32),
    Case('one-row', pooled_small(size=(1, 7), count=2), dtypes=FLOAT32),
    Case('no-region', pooled_small(count=0)),
    Case('no-image', pooled_small(count=0, batch=0)),
]
TRITON_DEFORM_PS_ROI_POOL = [
    Case('classes', deformed_small()),
    Case('vote', deformed_small(vote=True, count=1), dtypes=FLOAT32),
    Case('several-maps', deformed_small(classes=2, depth=2, count=1)),
    Case('without-offsets', deformed_small(classes=0, depth=3, count=1), dtypes=FLOAT32),
    Case('outside', deformed_small(count=4, num_bins=1), dtypes=FLOAT32),
    Case('five-samples', deformed_small(num_bins=1, num_samples=5), dtypes=FLOAT32),
    Case('one-pixel', deformed_small(size=(1, 1), count=1), dtypes=FLOAT32),
    Case('no-region', deformed_small(count=0)),
    Case('no-image', deformed_small(count=0, batch=0)),
]
# FlexAttention computes gradients on CUDA only; tests/ops/test_flex_attention.py
FLEX = [
    Case('wide', on_grid(7, 61, grad=False), gradients=False, dtypes=FLOAT32),
    Case('empty', on_grid(21, 20, batch=0), declined=True),
    Case('short', on_grid(20, 20), declined=True),
    Case('without-tables', on_grid(21, 20, tables=False), declined=True),
]

CASES = {
    'mmssl.ops.fast.attention:attention': ATTENTION,
    'mmssl.ops.fast.attention:biased_attention': BIASED,
    'mmssl.ops.fast.rel_attention:attend_by_rows': BY_ROWS,
    'mmssl.ops.fast.rel_attention:attend_augmented': AUGMENTED,
    'mmssl.ops.fast.rel_attention:attend_window_by_window': WINDOWS,
    'mmssl.ops.fast.weighted_sum:weighted_sum': WEIGHTED_SUM,
    'mmssl.ops.fast.deform_conv:sampled_product': SAMPLED_PRODUCT,
    'mmssl.ops.fast.ps_roi_pool:pool_bins': PS_ROI_POOL,
    'mmssl.ops.fast.deform_ps_roi_pool:pool_samples': DEFORM_PS_ROI_POOL,
    'mmssl.ops.fast.triton_ps_roi_pool:pool_bins': TRITON_PS_ROI_POOL,
    'mmssl.ops.fast.triton_deform_ps_roi_pool:pool_samples': TRITON_DEFORM_PS_ROI_POOL,
    'mmssl.ops.fast.flex_attention:attend_flex': FLEX,
    'mmssl.ops.fast.normalize:normalize_images': NORMALIZE,
    'mmssl.ops.fast.scale_each:scale_each_': SCALE_EACH,
}
