"""Twenty images are labelled in Chromium; the server is killed in the middle, and nothing is lost."""

import json

import numpy as np
import pytest
from PIL import Image

pytest.importorskip('uvicorn', reason="the page needs uvicorn: pip install 'mmssl[page]'")
pytest.importorskip('playwright.sync_api', reason='driving a browser needs playwright')
from page_browser import click, drag, status
from page_client import write_photo
from page_process import CHROMIUM, SMALL, PageProcess
from pycocotools.coco import COCO

from mmssl.data.label_formats import read_labels

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason='no Chromium on this machine: apt-get install chromium'),
]
COUNT = 20
KILLED_AT = 11


@pytest.fixture
def photos(data_root, tmp_path):
    """Photographs of COCO in an order of their own, and two images of 16 bits."""
    folder = tmp_path / 'photos'
    folder.mkdir()
    sources = sorted((data_root / 'coco_mini').rglob('*.jpg'))[: COUNT - 2]
    for path in sources:
        Image.open(path).convert('RGB').resize((160, 120)).save(folder / path.name)
    for index in range(2):
        write_photo(folder / f'deep_{index}.tif', (90, 120), seed=index, scale=16)
    names = sorted(path.name for path in folder.iterdir())[::-1]
    (tmp_path / 'order.txt').write_text(''.join(f'{folder / name}\n' for name in names))
    return names


@pytest.fixture
def start_page(repo_root):
    """Start pages; those that a failed test has left are killed."""
    pages = []

    def start(*options, port=None):
        pages.append(PageProcess(repo_root, *options, port=port))
        return pages[-1]

    yield start
    for page in pages:
        if page.process.poll() is None:
            page.kill()


def annotations(path):
    return json.loads(path.read_text())['annotations'] if path.exists() else []


def test_twenty_images_with_a_server_that_is_killed(visit, photos, tmp_path, start_page):
    labels = tmp_path / 'labels'
    options = [*SMALL, '--data', tmp_path / 'photos', '--out', labels, '--order', tmp_path / 'order.txt']
    options += ['--classes', 'cat,dog', '--value-range', '0,4095']
    server = start_page(*options)
    page = visit(server.url)
    accepted = 0
    for index, name in enumerate(photos):
        page.wait_for_function('name => document.getElementById("title").textContent === name', arg=name)
        status(page, 'Click on an object')
        if index % 2:
            page.locator('#modes label', has_text='a box').click()
            drag(page, (0.2, 0.3), (0.7, 0.8))
        else:
            page.locator('#modes label', has_text='inside').click()
            click(page, 0.5, 0.5)
        status(page, ' ms')
        page.keyboard.press(str(1 + index % 2))
        page.keyboard.press('Enter')
        status(page, 'dog accepted' if index % 2 else 'cat accepted')
        accepted += 1
        if index == KILLED_AT:  # in the middle of an image
            server.kill()
            finished, open_ = (
                annotations(labels / 'annotations.json'),
                annotations(labels / '.unfinished.json'),
            )
            assert (len(finished), len(open_)) == (KILLED_AT, 1), 'all that was accepted is there'
            page.keyboard.press('n')
            page.locator('#problem', has_text='The server does not answer').wait_for()
            server = start_page(*options, port=server.port)
            page.keyboard.press('n')  # the page enters again, at the image that is not finished
            status(page, '1 objects so far')
            assert page.inner_text('#title') == name
            assert page.inner_text('#progress-text') == f'{KILLED_AT} of {COUNT} images'
        page.keyboard.press('n')
    page.wait_for_function('() => document.getElementById("title").textContent === "No image left"')
    assert page.inner_text('#progress-text') == f'{COUNT} of {COUNT} images'
    assert 'All images are labelled' in page.inner_text('#empty')
    server.stop()

    coco = COCO(labels / 'annotations.json')
    assert sorted(image['file_name'] for image in coco.dataset['images']) == sorted(photos)
    assert len(coco.dataset['annotations']) == COUNT and accepted == COUNT
    for annotation in coco.dataset['annotations']:
        assert coco.annToMask(annotation).sum() == annotation['area'] > 0
    assert np.bincount([each['category_id'] for each in coco.dataset['annotations']])[1:].tolist() == [10, 10]
    read = read_labels(labels / 'annotations.json', 'instance', images=[tmp_path / 'photos'])
    assert read.classes == ['cat', 'dog'] and len(read.images) == COUNT


def test_two_people_do_not_overwrite_each_other(visit, photos, tmp_path, start_page):
    labels = tmp_path / 'labels'
    server = start_page(*SMALL, '--data', tmp_path / 'photos', '--out', labels, '--value-range', '0,4095')
    pages = [visit(server.url), visit(server.url, viewport=dict(width=390, height=844))]
    names = sorted(photos)
    for page, name in zip(pages, names, strict=False):
        page.wait_for_function('name => document.getElementById("title").textContent === name', arg=name)
        assert page.evaluate('document.documentElement.scrollWidth') <= page.viewport_size['width']
    for page in pages:
        page.fill('#class', 'thing')
        page.keyboard.press('Enter')
    for page in pages:
        page.locator('#picture').scroll_into_view_if_needed()
        click(page, 0.5, 0.5)
        status(page, ' ms')
        page.get_by_role('button', name='Accept').first.click()
        status(page, 'thing accepted')
        page.get_by_role('button', name='Done').click()
    for page, name in zip(pages, names[2:], strict=False):
        page.wait_for_function('name => document.getElementById("title").textContent === name', arg=name)
    pages[0].keyboard.press('b')
    status(pages[0], 'finished before')
    pages[0].get_by_role('button', name='Remove object 1').click()
    status(pages[0], 'removed')
    pages[0].keyboard.press('z')
    status(pages[0], 'taken back')
    server.stop()
    content = json.loads((labels / 'annotations.json').read_text())
    assert [image['file_name'] for image in content['images']] == names[:2]
    assert len(content['annotations']) == 2 and content['categories'][0]['name'] == 'thing'
