"""Data preprocessors: the values of the toolboxes', without lists of indices and without waiting."""

import copy

import pytest
import torch
from mmengine.model import ImgDataPreprocessor as MMEngineImgDataPreprocessor

from mmssl.layers.preprocessing import ImgDataPreprocessor, SelfSupDataPreprocessor
from mmssl.ops.fast.normalize import normalize_images as fused
from mmssl.ops.normalize import normalize_images
from mmssl.registry import MODELS

STATISTICS = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])


def images(*sizes, dtype=torch.uint8):
    torch.manual_seed(0)
    return [torch.randint(256, (3, *size)).to(dtype) for size in sizes]


def both(name, theirs, data, training=True, **settings):
    """Results of this package's and of the toolbox's data preprocessor."""
    before = copy.deepcopy(data)
    results = [
        MODELS.build(dict(type=f'mmssl.{name}', **settings))(copy.deepcopy(data), training),
        theirs(**settings)(copy.deepcopy(data), training),
    ]
    for own, other in zip(data['inputs'], before['inputs'], strict=True):
        assert torch.equal(own, other)
    return results


@pytest.mark.parametrize('dtype', [torch.uint8, torch.float32])
@pytest.mark.parametrize('settings', [STATISTICS, dict(**STATISTICS, to_rgb=True), dict(bgr_to_rgb=True)])
def test_views_equal_mmpretrains(settings, dtype):
    from mmpretrain.models import SelfSupDataPreprocessor as MMPretrains

    views = [torch.stack(images((5, 4), (5, 4), dtype=dtype)) for _ in range(2)]
    for inputs in (views, views[0]):
        own, other = both(
            'SelfSupDataPreprocessor', MMPretrains, dict(inputs=inputs, data_samples=None), **settings
        )
        for mine, their in zip(own['inputs'], other['inputs'], strict=True):
            assert torch.equal(mine, their)
        assert own['data_samples'] is None


def test_images_of_any_sizes_equal_mmengines():
    data = dict(inputs=images((5, 4), (6, 3)))
    for settings in (dict(**STATISTICS, bgr_to_rgb=True, pad_size_divisor=8, pad_value=3), {}):
        own, other = both('ImgDataPreprocessor', MMEngineImgDataPreprocessor, data, **settings)
        assert torch.equal(own['inputs'], other['inputs']) and own['data_samples'] is None


@pytest.mark.parametrize('training', [True, False])
def test_detection_equals_mmdets(training):
    pytest.importorskip('mmdet')
    from mmdet.models.data_preprocessors import DetDataPreprocessor
    from mmdet.structures import DetDataSample

    data = dict(inputs=images((5, 4), (6, 3)), data_samples=[DetDataSample(), DetDataSample()])
    own, other = both(
        'DetDataPreprocessor',
        DetDataPreprocessor,
        data,
        training,
        **STATISTICS,
        bgr_to_rgb=True,
        pad_size_divisor=4,
    )
    assert torch.equal(own['inputs'], other['inputs'])
    assert [sample.pad_shape for sample in own['data_samples']] == [(8, 4), (8, 4)]
    assert own['data_samples'][0].batch_input_shape == other['data_samples'][0].batch_input_shape


@pytest.mark.parametrize('training', [True, False])
def test_segmentation_equals_mmsegs(training):
    pytest.importorskip('mmseg')
    from mmengine.structures import PixelData
    from mmseg.models import SegDataPreProcessor
    from mmseg.structures import SegDataSample

    samples = [SegDataSample(gt_sem_seg=PixelData(data=torch.ones(1, 5, 4))) for _ in range(2)]
    own, other = both(
        'SegDataPreProcessor',
        SegDataPreProcessor,
        dict(inputs=images((5, 4), (5, 4)), data_samples=samples),
        training,
        **STATISTICS,
        bgr_to_rgb=True,
        size=(8, 8),
        test_cfg=dict(size_divisor=4),
    )
    assert torch.equal(own['inputs'], other['inputs'])
    for mine, their in zip(own['data_samples'], other['data_samples'], strict=True):
        assert torch.equal(mine.gt_sem_seg.data, their.gt_sem_seg.data)


def test_the_settings_are_there_again_after_an_error():
    own = ImgDataPreprocessor(**STATISTICS, bgr_to_rgb=True)
    with pytest.raises(TypeError):
        own(dict(inputs=['file.jpg']))
    with pytest.raises(ValueError, match='images of 1 channels and a data_preprocessor whose mean has 3'):
        own(dict(inputs=[torch.zeros(1, 2, 2)]))
    assert own._enable_normalize and own._channel_conversion and not own._prepared


def test_one_pass_has_an_error_of_one_unit_of_the_largest_value():
    every_value = torch.arange(256, dtype=torch.uint8).expand(3, 1, 256)
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in STATISTICS.values())
    exact = normalize_images(every_value, mean, std, reverse=True)
    largest = exact.abs().max()
    unit = torch.nextafter(largest, 2 * largest) - largest
    assert (fused(every_value, mean, std, reverse=True) - exact).abs().max() <= unit


def test_a_network_in_channels_last_gets_its_batch_in_that_format():
    small = dict(type='mmpretrain.ResNet', depth=18, stem_channels=8, base_channels=8)
    neck = dict(type='mmssl.MLP', dims=(64, 8))
    model = MODELS.build(dict(type='mmssl.SimCLR', backbone=small, neck=neck, data_preprocessor=STATISTICS))
    view = torch.stack(images((8, 6), (8, 6)))
    prepared = model.data_preprocessor(dict(inputs=[view, view]))['inputs']
    for batch in prepared:
        assert batch.is_contiguous(memory_format=torch.channels_last)
    assert all(own is batch for own, batch in zip(model.views(prepared), prepared, strict=True))


def test_copies_do_not_wait_and_lists_of_samples_are_refused():
    assert SelfSupDataPreprocessor()._non_blocking and ImgDataPreprocessor()._non_blocking
    assert not SelfSupDataPreprocessor(non_blocking=False)._non_blocking
    with pytest.raises(TypeError, match='a batch is a list; give the loader collate_fn'):
        SelfSupDataPreprocessor()([dict(inputs=torch.zeros(3, 2, 2))])
    with pytest.raises(TypeError, match='non_lbocking'):
        SelfSupDataPreprocessor(non_lbocking=True)
