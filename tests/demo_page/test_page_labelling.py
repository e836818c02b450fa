"""The labelling page without a browser: labels, leases, suggestions, what a killed process leaves."""

import json
import os
import signal

import numpy as np
import pytest

pytest.importorskip('uvicorn', reason="the page needs uvicorn: pip install 'mmssl[page]'")
from page_client import Client, small_sam, write_photo
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from mmssl.apis.output_folder import locked
from mmssl.data.label_formats import read_labels
from mmssl.data.pictures import PictureSettings
from mmssl.demo_page.app import PageSettings
from mmssl.demo_page.label_app import build_labelling
from mmssl.demo_page.label_desk import LabelDesk
from mmssl.demo_page.label_images import images_to_label
from mmssl.demo_page.labels import LabelStore, class_name
from mmssl.demo_page.leases import Leases
from mmssl.demo_page.server import PageServer
from mmssl.demo_page.suggestions import Suggestions
from mmssl.errors import LabelError

SIZE = (48, 64)
BOX = dict(x1=10, y1=8, x2=50, y2=40)


def record_of(mask):
    code = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return dict(
        segmentation=dict(size=list(code['size']), counts=code['counts'].decode()),
        bbox=coco_mask.toBbox(code).tolist(),
        area=int(mask.sum()),
    )


def square(start=10, side=8):
    mask = np.zeros(SIZE, dtype=bool)
    mask[start : start + side, start : start + side] = True
    return mask


@pytest.fixture(scope='module')
def model():
    return small_sam()


@pytest.fixture
def photos(tmp_path):
    """Four images, one of 16 bits and one in a subfolder, and a file that is none."""
    folder = tmp_path / 'photos'
    (folder / 'more').mkdir(parents=True)
    write_photo(folder / 'b.png', seed=1)
    write_photo(folder / 'a.jpg', seed=2)
    write_photo(folder / 'deep.tif', seed=3, scale=16)
    write_photo(folder / 'more/c.png', seed=4)
    (folder / 'broken.png').write_text('no image')
    return folder


@pytest.fixture
def start(tmp_path, model, photos):
    """Start a page on a folder of labels; ``clients`` are its visitors."""
    servers = []

    def start(visitors=1, order=None, prefill=None, classes=(), leases=None):
        names = images_to_label(photos, order)
        desk = LabelDesk(
            photos, names, LabelStore(tmp_path / 'labels', classes), Suggestions(prefill or [], names), leases
        )
        folder = tmp_path / 'uploads'
        folder.mkdir(exist_ok=True)
        settings = PageSettings(
            folder, model=model, model_name='tiny', pictures=PictureSettings(value_range=(0, 4095))
        )
        servers.append(PageServer(build_labelling(settings, desk)))
        return [Client(servers[-1].url) for _ in range(visitors)]

    yield start
    for server in servers:
        server.close()


def content_of(tmp_path, name='annotations.json'):
    return json.loads((tmp_path / 'labels' / name).read_text())


def test_images_are_labelled_one_after_the_other(start, tmp_path):
    (client,) = start(classes=['cell'])
    state = client.enter('label')
    assert state['image'] == dict(name='a.jpg', width=64, height=48) and state['progress']['total'] == 5
    state = client.post('label/box', **BOX)
    assert len(state['masks']) == 1 and state['box'] == [10, 8, 50, 40] and len(state['overlays']) == 1
    assert client.post('label/finish').startswith('the mask is not accepted yet')
    assert client.post('label/accept', **{'class': '  '}) == 'the class has no name; type one'
    state = client.post('label/accept', **{'class': ' cell '})
    assert [each['class'] for each in state['objects']] == ['cell'] and not state['masks']
    assert client.post('label/accept', **{'class': 'cell'}).startswith('there is no mask to accept')
    assert not (tmp_path / 'labels/annotations.json').exists(), 'objects of the image may be missing yet'
    assert len(content_of(tmp_path, '.unfinished.json')['annotations']) == 1
    state = client.post('label/finish')
    assert state['image']['name'] == 'b.png' and state['progress']['finished'] == 1
    state = client.post('label/finish')  # without objects
    assert state['image']['name'] == 'deep.tif' and state['progress']['unreadable'] == ['broken.png']
    client.post('label/click', x=20, y=20, mode='object')
    state = client.post('label/accept', **{'class': 'dust'})
    assert [each['name'] for each in state['classes']] == ['cell', 'dust']
    state = client.post('label/finish')
    assert state['image']['name'] == 'more/c.png'
    state = client.post('label/finish')
    assert state['image'] is None and state['progress']['finished'] == 4

    coco = COCO(tmp_path / 'labels/annotations.json')
    assert sorted(image['file_name'] for image in coco.dataset['images']) == [
        'a.jpg', 'b.png', 'deep.tif', 'more/c.png'
    ]  # fmt: skip
    assert not content_of(tmp_path, '.unfinished.json')['images']
    for annotation in coco.dataset['annotations']:
        mask = coco.annToMask(annotation)
        assert mask.shape == SIZE and mask.sum() == annotation['area'] > 0
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        left, top, width, height = annotation['bbox']
        assert (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) == (left, top, left + width, top + height)
    labels = read_labels(tmp_path / 'labels/annotations.json', 'instance')  # photos are beside it
    assert labels.classes == ['cell', 'dust'] and len(labels.images) == 4
    assert sum(len(image.objects) for image in labels.images) == 2


def test_the_mask_is_that_of_the_model_on_the_16_bit_image(start, model, tmp_path, photos):
    from mmssl.data.pictures import read_rgb
    from mmssl.promptable import SamPredictor

    order = tmp_path / 'order.txt'
    order.write_text(f'{photos}/deep.tif\n')
    (client,) = start(order=order)
    client.enter('label')
    client.post('label/box', **BOX)
    client.post('label/accept', **{'class': 'cell'})
    predictor = SamPredictor(model)
    image = read_rgb(photos / 'deep.tif', PictureSettings(value_range=(0, 4095)))
    assert image.max() > 200
    predictor.set_image(image)
    masks, _, _ = predictor.predict(box=np.array([10.0, 8, 50, 40]), multimask_output=False)
    (annotation,) = content_of(tmp_path, '.unfinished.json')['annotations']
    assert np.array_equal(coco_mask.decode(annotation['segmentation']) > 0, masks[0])


def test_undo_rename_remove_and_back(start, tmp_path):
    (client,) = start(classes=['cell', 'dust'])
    client.enter('label')
    client.post('label/click', x=20, y=20, mode='object')
    state = client.post('label/click', x=5, y=5, mode='background')
    assert len(state['points']) == 2
    assert len(client.post('label/undo')['points']) == 1
    (added,) = client.post('label/accept', **{'class': 'cell'})['objects']
    assert client.post('label/rename', id=added['id'], **{'class': 'dust'})['objects'][0]['class'] == 'dust'
    assert client.post('label/remove', id=added['id'])['objects'] == []
    assert 'no annotation' in client.post('label/remove', id=added['id'])
    assert client.post('label/undo')['objects'][0]['class'] == 'dust'
    assert client.post('label/undo')['objects'][0]['class'] == 'cell'
    assert client.post('label/undo')['objects'] == []
    assert client.post('label/undo') == 'there is nothing to undo in this image'
    client.post('label/finish')
    assert client.post('label/back')['finished']
    client.post('label/box', **BOX)
    client.post('label/accept', **{'class': 'cell'})
    assert len(content_of(tmp_path)['annotations']) == 1, (
        'a finished image stays finished when it is corrected'
    )
    assert client.post('label/back') == 'this is the first image'
    assert client.post('label/skip')['image']['name'] == 'b.png'
    assert client.post('label/skip')['image']['name'] == 'deep.tif'
    client.post('label/finish')
    assert client.post('label/finish')['image']['name'] == 'b.png', 'what was skipped comes last'


def test_two_visitors_get_different_images_and_both_labels_stay(start, tmp_path):
    one, two = start(visitors=2)
    names = [client.enter('label')['image']['name'] for client in (one, two)]
    assert names == ['a.jpg', 'b.png']
    for _ in range(2):
        for client in (one, two):
            client.post('label/box', **BOX)
            client.post('label/accept', **{'class': 'cell'})
            state = client.post('label/finish')
    assert state['image'] is None and state['progress']['finished'] == 4
    content = content_of(tmp_path)
    assert len({each['id'] for each in content['annotations']}) == 4
    assert len({each['image_id'] for each in content['annotations']}) == 4


def test_an_image_is_free_again_when_its_visitor_leaves_or_falls_silent(start):
    now = [0.0]
    one, two = start(visitors=2, leases=Leases(100, clock=lambda: now[0]))
    assert one.enter('label')['image']['name'] == 'a.jpg'
    now[0] = 90
    assert one.post('label/alive') == {}
    now[0] = 150
    assert two.enter('label')['image']['name'] == 'b.png', 'the lease was renewed'
    now[0] = 240
    assert two.post('label/alive') == {} and two.post('label/skip')['image']['name'] == 'a.jpg'
    assert one.post('label/box', **BOX) == 'somebody else is labelling a.jpg now; go on with another image'
    assert one.post('label/finish').startswith('somebody else is labelling a.jpg')
    assert one.post('label/skip')['image']['name'] == 'b.png'
    one.request('POST', '/api/leave', one.visitor)
    assert two.post('label/skip')['image']['name'] == 'deep.tif'
    assert two.post('label/back')['image']['name'] == 'a.jpg'


def test_labelling_goes_on_where_it_was(start, tmp_path):
    (client,) = start(classes=['cell'])
    client.enter('label')
    client.post('label/finish')
    client.post('label/box', **BOX)
    client.post('label/accept', **{'class': 'dust'})
    (again,) = start(classes=['other'])
    state = again.enter('label')
    assert state['image']['name'] == 'b.png' and state['progress']['finished'] == 1
    assert [each['class'] for each in state['objects']] == ['dust']
    assert [each['name'] for each in state['classes']] == ['cell', 'dust', 'other']


def test_the_order_of_a_list(tmp_path, photos):
    order = tmp_path / 'order.txt'
    order.write_text(f'{photos}/more/c.png\nphotos/b.png\n{photos}/more/c.png\na.jpg\n')
    assert images_to_label(photos, order) == ['more/c.png', 'b.png', 'a.jpg']
    for line, message in (('z.png', 'z.png, which does not exist'), (tmp_path / 'x.png', 'is not in --data')):
        write_photo(tmp_path / 'x.png')
        order.write_text(f'{line}\n')
        with pytest.raises((ValueError, OSError), match=message):
            images_to_label(photos, order)
    with pytest.raises(FileNotFoundError, match='--data .*/photo does not exist'):
        images_to_label(tmp_path / 'photo')


def test_suggestions_are_accepted_or_discarded(start, tmp_path):
    prefill = tmp_path / 'masks.json'
    polygon = dict(segmentation=[[2, 2, 30, 2, 30, 20, 2, 20]], bbox=[2, 2, 28, 18], area=504)
    annotations = [
        dict(id=1, image_id=7, category_id=3, score=0.9, **record_of(square())),
        dict(id=2, image_id=7, category_id=3, **polygon),
        dict(id=3, image_id=7, category_id=3, **record_of(square(2, 4))),
        dict(id=4, image_id=8, category_id=3, **record_of(square())),
    ]
    images = [
        dict(id=7, file_name='x/a.jpg', height=48, width=64),
        dict(id=8, file_name='c.png', height=48, width=64),
    ]
    prefill.write_text(
        json.dumps(dict(images=images, annotations=annotations, categories=[dict(id=3, name='cat')]))
    )
    (client,) = start(prefill=[prefill])
    state = client.enter('label')
    assert [(each['key'], each['score']) for each in state['suggestions']] == [
        ('2', None),
        ('1', 0.9),
        ('3', None),
    ]
    assert len(state['overlays']) == 1 and not state['objects']
    state = client.post('label/discard-suggestion', key='2')
    assert [each['key'] for each in state['suggestions']] == ['1', '3']
    state = client.post('label/accept-suggestion', key='1')
    assert [each['class'] for each in state['objects']] == ['cat']
    (saved,) = content_of(tmp_path, '.unfinished.json')['annotations']
    assert np.array_equal(coco_mask.decode(saved['segmentation']) > 0, square()) and saved['bbox'] == [
        10,
        10,
        8,
        8,
    ]
    assert client.post('label/discard-suggestion', key='1') == 'there is no such suggestion any more'
    (again,) = start(prefill=[prefill])
    state = again.enter('label')
    assert [each['key'] for each in state['suggestions']] == ['2', '3'], (
        'what is accepted is not suggested again'
    )
    state = again.post('label/accept-all')
    assert len(state['objects']) == 3 and not state['suggestions']
    for _ in range(2):
        state = again.post('label/undo')
    assert [each['key'] for each in state['suggestions']] == ['2', '3'] and len(state['objects']) == 1
    for _ in range(3):
        state = again.post('label/finish')
    assert state['image']['name'] == 'more/c.png' and len(state['suggestions']) == 1


def test_suggestions_of_annotate(tmp_path):
    content = dict(
        image=dict(width=64, height=48), annotations=[dict(id=5, predicted_iou=0.8, **record_of(square()))]
    )
    (tmp_path / 'more').mkdir()
    (tmp_path / 'more/c.json').write_text(json.dumps(content))
    suggestions = Suggestions([tmp_path], ['a.png', 'more/c.png'], 'cell')
    assert suggestions.of('a.png') == []
    (mask,) = suggestions.of('more/c.png')
    assert (mask['key'], mask['class'], mask['score']) == ('5', 'cell', 0.8)
    twice = Suggestions([tmp_path, tmp_path], ['more/c.png']).of('more/c.png')
    assert [mask['key'] for mask in twice] == ['5', '1-5']
    for text in ('[]', '{}', '{"images": [{"id": 1}], "annotations": []}', 'x'):
        (tmp_path / 'wrong.json').write_text(text)
        with pytest.raises(LabelError, match=r'wrong\.json'):
            Suggestions([tmp_path / 'wrong.json'], ['a.png'])


def test_annotations_of_other_images_stay(tmp_path):
    labels = tmp_path / 'labels'
    labels.mkdir()
    old = dict(
        id=40, image_id=3, category_id=9, iscrowd=0, attributes=dict(pose='left'), **record_of(square())
    )
    image = dict(id=3, file_name='elsewhere.png', width=64, height=48, license=2)
    content = dict(images=[image], annotations=[old], categories=[dict(id=9, name='cat', color='red')])
    (labels / 'annotations.json').write_text(json.dumps(content))
    store = LabelStore(labels, ['dog'])
    added = store.add('a.png', SIZE, record_of(square(3)), 'cat')
    store.finish('a.png', SIZE)
    after = content_of(tmp_path)
    assert added == 41 and after['images'][0] == image and after['annotations'][0] == old
    assert (
        after['categories'][0] == dict(id=9, name='cat', color='red') and after['categories'][1]['id'] == 10
    )
    (labels / 'annotations.json').write_text('{"images": [')
    with pytest.raises(LabelError, match=r'annotations\.json.* is no COCO file of masks .*; move it'):
        LabelStore(labels)


def test_what_cannot_be_written_is_not_shown_as_saved(tmp_path, monkeypatch):
    store = LabelStore(tmp_path / 'labels')
    store.add('a.png', SIZE, record_of(square()), 'cat')
    before = content_of(tmp_path, '.unfinished.json')

    def full(*args):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('mmssl.demo_page.labels.write_text', full)
    for change in (
        lambda: store.add('a.png', SIZE, record_of(square()), 'dog'),
        lambda: store.add('b.png', SIZE, record_of(square()), 'dog'),
        lambda: store.remove('a.png', 1),
        lambda: store.finish('a.png', SIZE),
    ):
        with pytest.raises(OSError, match='No space left'):
            change()
    monkeypatch.undo()
    assert store.classes == ['cat'] and not store.is_finished('a.png') and not store.annotations('b.png')
    assert store.add('a.png', SIZE, record_of(square()), 'cat') == 2
    assert content_of(tmp_path, '.unfinished.json')['annotations'][:1] == before['annotations']


@pytest.mark.processes
def test_a_killed_process_loses_nothing_that_was_accepted(tmp_path):
    read, write = os.pipe()
    child = os.fork()
    if not child:
        store = LabelStore(tmp_path / 'labels')
        for index in range(10_000):
            name = f'{index // 3:04}.png'
            added = store.add(name, SIZE, record_of(square(index % 30)), 'cat')
            os.write(write, b'%d,' % added)
            if index % 3 == 2:
                store.finish(name, SIZE)
        os._exit(1)
    os.close(write)
    received = b''
    while received.count(b',') < 60:
        received += os.read(read, 10)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while chunk := os.read(read, 4096):
        received += chunk
    os.close(read)
    acknowledged = {int(part) for part in received.decode().split(',')[:-1]}
    store = LabelStore(tmp_path / 'labels')
    names = [f'{index:04}.png' for index in range(10_000)]
    saved = [each['id'] for name in names for each in store.annotations(name)]
    assert (
        len(saved) == len(set(saved)) and acknowledged <= set(saved) and len(saved) - len(acknowledged) <= 1
    )
    finished = {image['file_name'] for image in content_of(tmp_path)['images']}
    assert {name for name in names if store.is_finished(name)} == finished and len(finished) >= 19


def test_a_second_page_for_the_same_labels_is_refused(tmp_path):
    labels = tmp_path / 'labels'
    with (
        locked(labels, 'demo'),
        pytest.raises(OSError, match='another mmssl demo writes into .*labels'),
        locked(labels, 'demo'),
    ):
        pass


def test_names_of_classes():
    assert class_name('  red \t blood cell\n') == 'red blood cell' and class_name('红细胞') == '红细胞'
    with pytest.raises(ValueError, match='of 81 characters; at most 80'):
        class_name('x' * 81)
