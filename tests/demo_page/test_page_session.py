"""Clicks, boxes and files of one visitor, without a browser."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from mmssl.data.images import BadImageError
from mmssl.demo_page.session import Session
from mmssl.promptable import SamPredictor, build_sam

SIZES = dict(
    image_encoder=dict(
        img_size=64, embed_dim=32, depth=2, num_heads=2, global_attn_indexes=(1,), window_size=3, out_chans=32
    ),
    mask_decoder=dict(transformer=dict(num_heads=4, mlp_dim=64), iou_head_hidden_dim=32),
)
EVERYTHING = dict(points_per_side=3, pred_iou_thresh=-10.0, stability_score_thresh=0.0, box_nms_thresh=1.0)


@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    return build_sam(SIZES).eval()


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / 'a photo.jpg'
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def session(model, photo):
    session = Session(model, EVERYTHING)
    session.open(photo)
    return session


def test_a_click_gives_the_masks_of_the_predictor(session, model, photo):
    predictor = SamPredictor(model)
    predictor.set_image(session.image)
    session.click(10, 20, 'object')
    masks, scores, _ = predictor.predict(np.array([[10.0, 20.0]]), np.array([1]))
    order = np.argsort(-scores)
    assert session.scores == pytest.approx(scores[order].tolist()) and np.array_equal(
        session.masks, masks[order]
    )
    session.click(40, 5, 'background')
    masks, scores, _ = predictor.predict(
        np.array([[10.0, 20.0], [40, 5]]), np.array([1, 0]), multimask_output=False
    )
    assert len(session.masks) == 1 and np.array_equal(session.masks, masks)
    session.undo()
    assert len(session.masks) == 3
    session.undo()
    assert len(session.masks) == 0 and np.array_equal(session.draw(), session.image)


def test_two_corners_in_any_order_are_a_box(session, model):
    predictor = SamPredictor(model)
    predictor.set_image(session.image)
    session.click(50, 40, 'box')
    assert 'opposite corner' in session.note and not len(session.masks)
    assert not np.array_equal(session.draw(), session.image), 'the first corner is seen'
    with pytest.raises(ValueError, match='without area'):
        session.click(50, 10, 'box')
    session.click(5, 10, 'box')
    masks, _, _ = predictor.predict(box=np.array([5.0, 10, 50, 40]), multimask_output=False)
    assert np.array_equal(session.masks, masks)


def test_a_background_click_alone_asks_for_the_object(session):
    session.click(3, 3, 'background')
    assert session.note == 'click on the object first' and not len(session.masks)


def test_files_hold_the_mask_that_is_chosen(session, tmp_path):
    coco = pytest.importorskip('pycocotools.mask')
    session.click(30, 20, 'object')
    session.current_records()
    session.choose(1)
    picture = np.asarray(Image.open(session.save_masks(tmp_path)))
    assert np.array_equal(picture > 0, session.masks[1])
    content = json.loads(session.save_coco(tmp_path).read_text())
    assert content['images'] == [dict(id=1, file_name='a photo.jpg', width=64, height=48)]
    assert np.array_equal(coco.decode(content['annotations'][0]['segmentation']) > 0, session.masks[1])


def test_everything_and_names(session, tmp_path):
    pytest.importorskip('pycocotools')
    session.segment_everything()
    count = len(session.records)
    assert count > 1 and f'{count} masks' in session.note
    x, y, width, height = session.records[0]['bbox']

    def detect(image):
        assert image.shape == (48, 64, 3)
        return np.array([[x, y, x + width, y + height]]), np.array([1]), np.array([0.9]), ['cat', 'dog']

    session.label(detect)
    assert session.records[0]['label'] == 'dog'
    content = json.loads(session.save_coco(tmp_path).read_text())
    assert [one['name'] for one in content['categories']] == ['object', 'dog']
    assert content['annotations'][0]['category_id'] == 2 and content['annotations'][0]['score'] == 0.9
    numbers = np.asarray(Image.open(session.save_masks(tmp_path)))
    assert numbers.max() <= count and len(np.unique(numbers)) > 2
    session.click(10, 10, 'object')
    assert not session.everything and len(session.masks) == 3, 'a click starts anew'


def test_what_is_refused(session, tmp_path, model):
    with pytest.raises(ValueError, match=r'\(64, 3\) is outside of the image of 64 x 48 pixels'):
        session.click(64, 3, 'object')
    with pytest.raises(ValueError, match='no masks yet'):
        session.save_coco(tmp_path)
    broken = tmp_path / 'broken.jpg'
    broken.write_text('no picture')
    before = session.image
    with pytest.raises(BadImageError, match=r'broken\.jpg'):
        session.open(broken)
    assert session.image is before, 'the old image stays'
    large = tmp_path / 'large.png'
    Image.new('L', (200, 100)).save(large)
    with pytest.raises(ValueError, match='200x100 pixels, and this page takes 0.01 million'):
        session.open(large, max_pixels=10_000)
    with pytest.raises(ValueError, match='no image yet'):
        Session(model).click(1, 1, 'object')


def test_a_detector_of_a_config(tmp_path, demo_data):
    pytest.importorskip('mmdet')
    from mmengine.registry import init_default_scope

    from mmssl.config.load import load_config
    from mmssl.demo_page.detector import load_detector
    from mmssl.registry import MODELS, build

    cfg = load_config('smoke/rfcn.py')
    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = build(cfg.model, MODELS)
    with torch.no_grad():
        for name, parameter in model.roi_head.named_parameters():
            if 'cls' in name:
                parameter.mul_(30)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'rfcn.pth')
    detect = load_detector('smoke/rfcn.py', str(tmp_path / 'rfcn.pth'), 'cpu')
    boxes, labels, scores, names = detect(
        np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8)
    )
    assert len(boxes) == len(labels) == len(scores) and boxes.shape[1:] == (4,)
    assert (scores >= 0.3).all() and names == list(cfg.test_dataloader.dataset.metainfo['classes'])
    with pytest.raises(ValueError, match='is not the checkpoint of this model'):
        torch.save(
            dict(state_dict={name: value for name, value in model.state_dict().items() if 'rpn' not in name}),
            tmp_path / 'part.pth',
        )
        load_detector('smoke/rfcn.py', str(tmp_path / 'part.pth'), 'cpu')
