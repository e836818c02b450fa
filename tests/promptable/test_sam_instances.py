"""Boxes of a detector become masks."""

import zipfile

import numpy as np
import pytest
import torch
from mmengine.model import BaseModel
from mmengine.runner.checkpoint import load_state_dict
from mmengine.structures import BaseDataElement, InstanceData
from PIL import Image

from mmssl.errors import BadImageError
from mmssl.promptable import SamPredictor, build_sam, instances
from mmssl.promptable.instances import PromptedInstanceSegmentor

SIZES = dict(
    image_encoder=dict(
        img_size=64, embed_dim=32, depth=2, num_heads=2, out_chans=32, window_size=3, global_attn_indexes=(1,)
    ),
    mask_decoder=dict(transformer=dict(num_heads=4, mlp_dim=64), iou_head_hidden_dim=32),
)
BOXES = [[10.0, 10.0, 60.0, 50.0], [0.0, 0.0, 30.0, 20.0], [40.0, 40.0, 90.0, 80.0]]


class Detector(BaseModel):
    """Finds the same boxes in every image, none in the second one of a batch."""

    def __init__(self):
        super().__init__(
            dict(
                type='mmengine.ImgDataPreprocessor',
                mean=[10.0, 20.0, 30.0],
                std=[2.0, 4.0, 5.0],
                bgr_to_rgb=True,
            )
        )
        self.layer = torch.nn.Conv2d(3, 1, 1)

    def predict(self, inputs, data_samples):
        for number, sample in enumerate(data_samples):
            boxes = torch.tensor(BOXES[: 0 if number else 3])
            sample.pred_instances = InstanceData(
                bboxes=boxes, scores=torch.full((len(boxes),), 0.5), labels=torch.zeros(len(boxes))
            )
        return data_samples

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return {'loss': self.layer(inputs).mean()} if mode == 'loss' else self.layer(inputs)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return PromptedInstanceSegmentor(Detector(), build_sam(SIZES), rate_masks=True, chunk=2).eval()


def samples(path=None):
    facts = dict(img_shape=(80, 100), ori_shape=(80, 100), **(dict(img_path=str(path)) if path else {}))
    return [BaseDataElement(metainfo=facts), BaseDataElement(metainfo=facts)]


def test_masks_are_those_of_the_sam_for_these_boxes(model, tmp_path, monkeypatch):
    rgb = np.random.default_rng(0).integers(0, 256, (80, 100, 3), dtype=np.uint8)
    Image.fromarray(rgb).save(tmp_path / 'x.png')
    bgr = torch.from_numpy(rgb[..., ::-1].copy()).permute(2, 0, 1)
    from_file, none = model.test_step(dict(inputs=[bgr, bgr], data_samples=samples(tmp_path / 'x.png')))
    masks = from_file.pred_instances.masks
    assert (
        masks.shape == (3, 80, 100)
        and masks.dtype == torch.bool
        and none.pred_instances.masks.shape == (0, 80, 100)
    )
    predictor = SamPredictor(model.sam)
    predictor.set_image(rgb)
    for box, mask, score in zip(BOXES, masks, from_file.pred_instances.mask_scores, strict=True):
        expected, ious, _ = predictor.predict(box=np.array(box), multimask_output=False)
        assert np.array_equal(mask.numpy(), expected[0]) and score == pytest.approx(0.5 * ious[0], abs=1e-6)
    model.multimask = True
    best, scores = model.segment(rgb, torch.tensor(BOXES), (80, 100))
    model.multimask = False
    three, ious, _ = predictor.predict(box=np.array(BOXES[2]))
    assert np.array_equal(best[2].numpy(), three[ious.argmax()]) and scores[2] == pytest.approx(
        ious.max(), abs=1e-6
    )
    from_input, _ = model.test_step(dict(inputs=[bgr, bgr], data_samples=samples()))
    assert torch.equal(from_input.pred_instances.masks, masks)  # the same pixels, normalised and back
    monkeypatch.setattr(instances, 'FLOAT_PIXELS', 1)
    assert torch.equal(model.segment(rgb, torch.tensor(BOXES), (80, 100))[0], masks)


@pytest.mark.parametrize('name', ['gray.png', 'cmyk.jpg', 'rotated.jpg', 'image.gif', 'images.zip/rgb.png'])
def test_files_of_all_kinds_are_read_as_by_the_data_sets(model, tmp_path, name, monkeypatch):
    from mmssl.data.images import read_rgb

    height, width = 80, 100
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image, options = Image.fromarray(pixels), {}
    if name == 'gray.png':
        image = image.convert('L')
    elif name == 'cmyk.jpg':
        image = image.convert('CMYK')
    elif name == 'rotated.jpg':
        image, exif = image.rotate(90, expand=True), Image.Exif()
        exif[0x0112] = 6
        options = dict(exif=exif)
    file = tmp_path / name.rpartition('/')[2]
    image.save(file, **options)
    if 'zip' in name:
        with zipfile.ZipFile(tmp_path / 'images.zip', 'w') as archive:
            archive.write(file, 'rgb.png')
    given = []
    monkeypatch.setattr(
        model, 'segment', lambda pixels, *_: given.append(pixels) or (torch.zeros(3, 80, 100), torch.ones(3))
    )
    model.test_step(dict(inputs=[torch.zeros(3, 80, 100)] * 2, data_samples=samples(tmp_path / name)))
    assert np.array_equal(given[0], read_rgb(tmp_path / name)) and given[0].std() > 1


def test_the_input_is_used_where_the_file_is_gone(model, tmp_path):
    gone = samples(tmp_path / 'gone.png')[0]
    assert model._pixels(torch.zeros(3, 80, 100), gone).shape == (80, 100, 3)
    (tmp_path / 'text.png').write_text('no image')
    with pytest.raises(BadImageError, match='text.png'):
        model._pixels(torch.zeros(3, 80, 100), samples(tmp_path / 'text.png')[0])


def test_the_detector_alone_learns(model):
    model.train()
    model(torch.randn(2, 3, 8, 8), samples(), mode='loss')['loss'].backward()
    assert not model.sam.training and all(parameter.grad is None for parameter in model.sam.parameters())
    assert model.detector.layer.weight.grad is not None
    assert model(torch.randn(2, 3, 8, 8)).shape == (2, 1, 8, 8)


def test_errors():
    with pytest.raises(ValueError, match='Identity as a detector needs predict'):
        PromptedInstanceSegmentor(torch.nn.Identity(), build_sam(SIZES))


def test_weights_of_the_parts_and_of_the_whole(model, tmp_path):
    """A detector's checkpoint loads as it is, and does not leave a SAM of random weights behind it."""
    sam, detector = (
        model.sam.state_dict(),
        {name: value + 1 for name, value in model.detector.state_dict().items()},
    )
    torch.save(sam, tmp_path / 'sam.pth')
    torch.manual_seed(1)
    config = dict(
        type='mmssl.SAM',
        image_encoder=dict(type='mmssl.SAMImageEncoder', **SIZES['image_encoder']),
        mask_decoder=SIZES['mask_decoder'],
    )
    selected = PromptedInstanceSegmentor(Detector(), config, sam_checkpoint=str(tmp_path / 'sam.pth'))
    selected.init_weights()
    assert all(torch.equal(value, sam[name]) for name, value in selected.sam.state_dict().items())
    for load in (selected.load_state_dict, lambda weights: load_state_dict(selected, weights, strict=True)):
        load(dict(detector))
        assert torch.equal(selected.detector.layer.weight, detector['layer.weight'])
        assert all(torch.equal(value, sam[name]) for name, value in selected.sam.state_dict().items())
        selected.detector.layer.weight.data.zero_()
    bare = PromptedInstanceSegmentor(Detector(), config)
    with pytest.raises(
        ValueError, match='no weights of the SAM; give them: --cfg-options model.sam_checkpoint=FILE'
    ):
        bare.load_state_dict(dict(detector))
    bare.load_state_dict(selected.state_dict())
    assert all(torch.equal(value, sam[name]) for name, value in bare.sam.state_dict().items())
    with pytest.raises(ValueError, match='sam.pth'):
        PromptedInstanceSegmentor(
            Detector(),
            {**config, 'mask_decoder': dict(iou_head_hidden_dim=8)},
            sam_checkpoint=tmp_path / 'sam.pth',
        )


FASTER_RCNN = """
_base_ = 'mmdet::_base_/models/faster-rcnn_r50_fpn.py'
model = dict(
    backbone=dict(depth=18, stem_channels=8, base_channels=8, init_cfg=None),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=16),
    rpn_head=dict(in_channels=16, feat_channels=16),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=16),
        bbox_head=dict(in_channels=16, fc_out_channels=16, num_classes=3)),
    test_cfg=dict(rpn=dict(max_per_img=20), rcnn=dict(score_thr=0., max_per_img=5)))
"""


def test_the_hosts_faster_rcnn(tmp_path):
    pytest.importorskip('mmdet')
    from mmdet.structures import DetDataSample
    from mmengine.config import Config
    from mmengine.registry import init_default_scope

    (tmp_path / 'faster_rcnn.py').write_text(FASTER_RCNN)
    init_default_scope('mmdet')
    torch.manual_seed(0)
    whole = PromptedInstanceSegmentor(
        Config.fromfile(tmp_path / 'faster_rcnn.py').model, build_sam(SIZES)
    ).eval()
    sample = DetDataSample(metainfo=dict(img_shape=(96, 128), ori_shape=(48, 64), scale_factor=(2.0, 2.0)))
    matches = whole.test_step(
        dict(inputs=[torch.randint(0, 256, (3, 96, 128), dtype=torch.uint8)], data_samples=[sample])
    )[0].pred_instances
    assert (
        matches.masks.shape == (5, 48, 64)
        and matches.masks.dtype == torch.bool
        and matches.bboxes[:, 2].max() <= 64
    )
