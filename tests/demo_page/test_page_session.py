"""Clicks, boxes and files of one visitor, without a browser."""

import base64
import io

import numpy as np
import pytest
import torch
from page_client import small_sam
from PIL import Image

from mmssl.data.images import BadImageError
from mmssl.demo_page.overlay import overlay_png
from mmssl.demo_page.samples import FirstView
from mmssl.demo_page.session import Session
from mmssl.demo_page.session_state import describe, mask_words
from mmssl.promptable import SamPredictor

EVERYTHING = dict(points_per_side=3, pred_iou_thresh=-10.0, stability_score_thresh=0.0, box_nms_thresh=1.0)


@pytest.fixture(scope='module')
def model():
    return small_sam()


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
    assert len(session.masks) == 0 and describe(session)['overlay'] is None


def test_two_corners_in_any_order_are_a_box(session, model):
    predictor = SamPredictor(model)
    predictor.set_image(session.image)
    with pytest.raises(ValueError, match='without area'):
        session.draw_box(50, 40, 50, 10)
    assert not session.actions
    session.draw_box(50, 40, 5, 10)
    masks, _, _ = predictor.predict(box=np.array([5.0, 10, 50, 40]), multimask_output=False)
    assert np.array_equal(session.masks, masks) and describe(session)['box'] == [5, 10, 50, 40]
    session.draw_box(1, 2, 30, 40)
    assert describe(session)['box'] == [1, 2, 30, 40], 'another box takes the place of the first'
    session.undo()
    assert np.array_equal(session.masks, masks)


def test_words_for_masks():
    assert mask_words(0, 0.93, 0.124) == dict(rank='Best', area='12 % of the image', quality='looks reliable')
    assert mask_words(1, 0.75, 0.004) == dict(
        rank='Second', area='under 1 % of the image', quality='looks fair'
    )
    assert mask_words(2, -0.2, 1) == dict(rank='Third', area='100 % of the image', quality='unsure')
    assert mask_words(0, 0.9, 0) == dict(rank='Best', area='nothing found', quality='')


def test_the_overlay_shows_masks_where_they_are(session):
    mask = np.zeros((200, 300), dtype=bool)
    mask[40:160, 50:100] = True
    small = np.zeros_like(mask)
    small[60:80, 60:80] = True
    png = np.asarray(
        Image.open(io.BytesIO(overlay_png(mask.shape, [small, mask], [(255, 0, 0), (0, 0, 255)]))).convert(
            'RGBA'
        )
    )
    assert png.shape == (200, 300, 4) and np.array_equal(png[..., 3] > 0, mask)
    assert tuple(png[70, 70]) == (255, 0, 0, 128) and tuple(png[60, 70]) == (255, 0, 0, 255)
    assert tuple(png[120, 70]) == (0, 0, 255, 128) and tuple(png[40, 70]) == (0, 0, 255, 255)
    large = np.ones((3000, 1500), dtype=bool)
    assert Image.open(io.BytesIO(overlay_png(large.shape, [large], [(1, 2, 3)]))).size == (640, 1280)
    session.click(20, 20, 'object')
    url = describe(session)['overlay']
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(',')[2]))).convert('RGBA'))
    assert np.array_equal(shown[..., 3] > 0, session.masks[0])


def test_visitors_start_from_the_same_example(model, photo):
    first = FirstView(lambda: Session(model), {'a photo': photo})
    one, two = first.session(), first.session()
    assert len(one.masks) == 3 and one.actions == [('object', (32.0, 24.0))] and 'example' in one.note
    one.click(5, 5, 'background')
    one.predictor.reset_image()
    assert two.actions == [('object', (32.0, 24.0))] and len(two.masks) == 3
    two.click(40, 5, 'background')
    assert len(two.masks) == 1


def test_a_background_click_alone_asks_for_the_object(session):
    session.click(3, 3, 'background')
    assert session.note == 'click on the object first' and not len(session.masks)


def test_files_hold_the_mask_that_is_chosen(session):
    coco = pytest.importorskip('pycocotools.mask')
    session.click(30, 20, 'object')
    session.current_records()
    session.choose(1)
    picture = np.asarray(Image.open(io.BytesIO(session.masks_png())))
    assert np.array_equal(picture > 0, session.masks[1])
    content = session.coco_content()
    assert content['images'] == [dict(id=1, file_name='a photo.jpg', width=64, height=48)]
    assert np.array_equal(coco.decode(content['annotations'][0]['segmentation']) > 0, session.masks[1])


def test_everything_and_names(session):
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
    content = session.coco_content()
    assert [one['name'] for one in content['categories']] == ['object', 'dog']
    assert content['annotations'][0]['category_id'] == 2 and content['annotations'][0]['score'] == 0.9
    numbers = np.asarray(Image.open(io.BytesIO(session.masks_png())))
    assert numbers.max() <= count and len(np.unique(numbers)) > 2
    session.click(10, 10, 'object')
    assert not session.everything and len(session.masks) == 3, 'a click starts anew'


def test_what_is_refused(session, tmp_path, model):
    with pytest.raises(ValueError, match=r'\(64, 3\) is outside of the image of 64 x 48 pixels'):
        session.click(64, 3, 'object')
    with pytest.raises(ValueError, match='no masks yet'):
        session.coco_content()
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
