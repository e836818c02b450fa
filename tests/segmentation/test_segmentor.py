"""The lean segmentor gives mmseg's classes, in less memory."""

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from mmseg.models.segmentors import EncoderDecoder as HostEncoderDecoder
from mmseg.structures import SegDataSample

from mmssl.segmentation import EncoderDecoder

SLIDE = dict(mode='slide', crop_size=(16, 24), stride=(12, 10))


def make(kind, test_cfg, classes=4, **kwargs):
    init_default_scope('mmseg')
    torch.manual_seed(0)
    head = dict(
        type='FCNHead', in_channels=64, channels=8, num_classes=classes, num_convs=1, norm_cfg=dict(type='BN')
    )
    if classes == 2:
        head.update(out_channels=1, threshold=0.5)
    model = kind(
        backbone=dict(type='ResNet', depth=18, stem_channels=8, base_channels=8, norm_cfg=dict(type='BN')),
        decode_head=head,
        test_cfg=ConfigDict(test_cfg),
        **kwargs,
    )
    return model.eval()


def samples(number, **meta):
    return [
        SegDataSample(metainfo=dict(img_shape=(40, 50), ori_shape=(40, 50), pad_shape=(40, 50), **meta))
        for _ in range(number)
    ]


@pytest.mark.parametrize('classes', [4, 2])
@pytest.mark.parametrize('test_cfg', [dict(mode='whole'), SLIDE])
def test_classes_are_the_hosts(test_cfg, classes):
    inputs = torch.randn(2, 3, 40, 50)
    with torch.no_grad():
        host = make(HostEncoderDecoder, test_cfg, classes).predict(inputs, samples(2))
        ours = make(EncoderDecoder, test_cfg, classes).predict(inputs, samples(2))
    for mine, theirs in zip(ours, host, strict=True):
        assert mine.pred_sem_seg.data.dtype == torch.uint8 and not hasattr(mine, 'seg_logits')
        assert not any(name.endswith('seg_logits') for name in vars(mine))
        assert torch.equal(mine.pred_sem_seg.data.long(), theirs.pred_sem_seg.data.long())


@pytest.mark.parametrize(
    'wrong, words',
    [
        (dict(SLIDE, stride=(12, 25)), r'stride=\(12, 25\).*crop_size=\(16, 24\)'),
        (dict(SLIDE, stride=(0, 10)), 'stride'),
        (dict(mode='slide', stride=(8, 8)), 'needs crop_size'),
    ],
)
def test_windows_that_leave_pixels_out_are_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        make(EncoderDecoder, wrong)


def test_resized_results_and_scores_on_request():
    inputs = torch.randn(1, 3, 40, 50)
    meta = dict(img_shape=(40, 50), ori_shape=(60, 70), pad_shape=(40, 50))
    with torch.no_grad():
        host = make(HostEncoderDecoder, SLIDE).predict(inputs, [SegDataSample(metainfo=meta)])[0]
        ours = make(EncoderDecoder, SLIDE).predict(inputs, [SegDataSample(metainfo=meta)])[0]
        with_scores = make(EncoderDecoder, SLIDE, keep_logits=True).predict(
            inputs, [SegDataSample(metainfo=meta)]
        )[0]
    assert ours.pred_sem_seg.data.shape == (1, 60, 70)
    assert torch.equal(ours.pred_sem_seg.data.long(), host.pred_sem_seg.data)
    torch.testing.assert_close(with_scores.seg_logits.data, host.seg_logits.data)


def test_memory_does_not_grow_with_the_height():
    """Ten times the height needs no more scores: those of one row of windows."""
    model, largest = make(EncoderDecoder, SLIDE), []
    original = torch.Tensor.new_zeros

    def watched(self, *size):
        made = original(self, *size)
        largest.append(made.numel())
        return made

    torch.Tensor.new_zeros = watched
    try:
        with torch.no_grad():
            model.predict(torch.randn(1, 3, 400, 50), [SegDataSample(metainfo=dict(ori_shape=(400, 50)))])
    finally:
        torch.Tensor.new_zeros = original
    assert max(largest) == 4 * 16 * 50


@pytest.mark.parametrize('height, width', [(512, 683), (301, 640)])
def test_vit_takes_images_that_are_no_whole_number_of_patches(repo_root, height, width):
    from mmengine.config import Config
    from mmengine.registry import MODELS

    from mmssl.hosts import patches

    patches.apply()
    cfg = Config.fromfile(repo_root / 'configs/gcn/gcn_vit-b-mae_8xb2-160000i_ade20k-512x512.py').model
    cfg.backbone.update(
        arch=dict(embed_dims=8, num_layers=4, num_heads=2, feedforward_channels=8),
        out_indices=(0, 1, 2, 3),
        init_cfg=None,
    )
    cfg.neck.update(embed_dim=8, norm_cfg=dict(type='BN'))
    cfg.decode_head.update(in_channels=[8] * 4, kernel_size=3, num_classes=4)
    init_default_scope('mmseg')
    model = MODELS.build(cfg).eval()
    sample = SegDataSample(metainfo=dict(img_shape=(height, width), ori_shape=(height, width)))
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    with torch.no_grad():
        (result,) = model.test_step(dict(inputs=[image], data_samples=[sample]))
    assert result.pred_sem_seg.data.shape == (1, height, width)
