"""The page of ``mmssl demo`` in Chromium: clicks, boxes, files, wrong files, two visitors, layout."""

import json
import re
import socket
import urllib.error
import urllib.request

import numpy as np
import pytest
from PIL import Image

pytest.importorskip('uvicorn', reason="the page needs uvicorn: pip install 'mmssl[page]'")
pytest.importorskip('playwright.sync_api', reason='driving a browser needs playwright')
pytest.importorskip('mmpretrain')
from page_browser import click, drag, status
from page_process import CHROMIUM, SMALL, PageProcess

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason='no Chromium on this machine: apt-get install chromium'),
]
NO_FILTERS = ('--pred-iou-thresh', '0', '--stability-score-thresh', '0', '--box-nms-thresh', '1')
PHONE = dict(viewport=dict(width=390, height=844), device_scale_factor=2, has_touch=True)


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    """Weights of a small masked autoencoder."""
    import torch
    from mmengine.registry import init_default_scope

    from mmssl.config.load import load_config
    from mmssl.registry import MODELS, build

    cfg = load_config('smoke/mae.py')
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    model = build({'data_preprocessor': cfg.get('data_preprocessor'), **cfg.model}, MODELS)
    path = tmp_path_factory.mktemp('mae') / 'mae.pth'
    torch.save(dict(state_dict=model.state_dict()), path)
    return path


@pytest.fixture(scope='module')
def server(checkpoint, repo_root):
    """A page with a small model, in a process of its own."""
    limits = ('--max-upload', '1', '--max-pixels', '0.3', '--points-per-side', '4')
    process = PageProcess(repo_root, *SMALL, '--mae', 'smoke/mae.py', checkpoint, *limits, *NO_FILTERS)
    yield process.url
    process.stop()


@pytest.fixture
def photos(tmp_path):
    rng, paths = np.random.default_rng(0), []
    for name, size in (('first.jpg', (120, 160, 3)), ('second.png', (90, 150, 3))):
        paths.append(tmp_path / name)
        Image.fromarray(rng.integers(0, 255, size, dtype=np.uint8)).resize(size[1::-1]).save(paths[-1])
    return paths


def upload(page, path):
    page.set_input_files('#file', str(path))


def choose(page, text):
    page.locator('#modes label', has_text=text).click()


def download(page, name, folder):
    with page.expect_download() as waiting:
        page.get_by_role('link', name=name).click()
    path = folder / waiting.value.suggested_filename
    waiting.value.save_as(path)
    return path


def box_of(page, selector):
    box = page.locator(selector).bounding_box()
    return tuple(round(box[key]) for key in ('x', 'y', 'width', 'height'))


def test_the_first_view_is_an_example_with_its_mask(visit, server):
    page = visit(server)
    before = {name: box_of(page, name) for name in ('#frame', '#undo', '#save-coco')}
    status(page, 'An example')
    page.wait_for_selector('#picture image.mask')
    assert page.locator('#masks input').count() == 3
    first = page.locator('#masks label').first
    assert first.inner_text().startswith('Best') and first.locator('input').is_checked()
    assert '-' not in page.inner_text('#masks')
    assert re.search(r'Model: sam, \d+\.\d million parameters, on the CPU', page.inner_text('.model'))
    assert 'This model is small' in page.inner_text('.notice')
    assert {name: box_of(page, name) for name in before} == before, 'nothing moves when the example comes'


@pytest.mark.parametrize(
    'options', [{}, PHONE, dict(PHONE, color_scheme='dark')], ids=['wide', 'phone', 'dark']
)
def test_nothing_is_cut_off_or_moves(visit, server, photos, options):
    page = visit(server, **options)
    status(page, 'An example')
    width = page.viewport_size['width']
    assert page.evaluate('document.documentElement.scrollWidth') <= width
    before = {name: box_of(page, name) for name in ('#frame', '#undo', '#save-coco')}
    upload(page, photos[1])
    status(page, 'second.png')
    assert {name: box_of(page, name) for name in before} == before
    sizes = {
        box_of(page, f'#{name}')[2:] for name in ('undo', 'clear', 'everything', 'save-png', 'save-coco')
    }
    ((button_width, button_height),) = sizes
    assert button_height >= 44 and button_width >= 120
    x, _, frame_width, _ = box_of(page, '#frame')
    assert x >= 0 and x + frame_width <= width
    dark = page.evaluate('getComputedStyle(document.body).backgroundColor')
    assert (sum(map(int, re.findall(r'\d+', dark)[:3])) < 200) == (options.get('color_scheme') == 'dark')


def test_click_box_all_masks_and_download(visit, server, photos, tmp_path):
    coco = pytest.importorskip('pycocotools.mask')
    page = visit(server)
    status(page, 'An example')
    upload(page, photos[0])
    assert status(page, 'encoded').startswith('first.jpg: 160 x 120 pixels')
    assert page.locator('#picture image.mask').count() == 0
    click(page, 0.5, 0.5)
    assert status(page, ' ms').startswith('3 masks in')
    click(page, 0.1, 0.1, button='right')
    status(page, '1 mask in')
    assert page.locator('#picture .marker.background').count() == 1
    page.keyboard.press('z')
    status(page, '3 masks in')
    page.locator('#masks label').nth(2).click()
    page.wait_for_selector('#masks label:nth-of-type(3) input:checked', state='attached')
    choose(page, 'a box')
    drag(page, (0.2, 0.2), (0.8, 0.7))
    status(page, '1 mask in')
    rectangle = page.locator('#picture .box-marker')
    assert float(rectangle.get_attribute('width')) == pytest.approx(0.6 * 160, abs=1.5)
    page.click('#undo')
    status(page, '3 masks in')
    click(page, 0.2, 0.2)
    click(page, 0.8, 0.7)
    status(page, '1 mask in')
    assert float(rectangle.get_attribute('width')) == pytest.approx(0.6 * 160, abs=1.5), 'by two corners'
    page.click('#everything')
    found = int(re.match(r'(\d+) masks in', status(page, ' s'))[1])
    content = json.loads(download(page, 'Save COCO', tmp_path).read_text())
    assert content['images'][0]['file_name'] == 'first.jpg' and len(content['annotations']) == found > 3
    assert coco.decode(content['annotations'][0]['segmentation']).shape == (120, 160)
    path = download(page, 'Save PNG', tmp_path)
    numbers = np.asarray(Image.open(path))
    assert path.name == 'first_masks.png' and numbers.shape == (120, 160) and numbers.max() <= found
    page.click('#clear')
    status(page, 'cleared')
    assert page.locator('#save-coco').get_attribute('aria-disabled') == 'true'


def test_the_keyboard_is_enough(visit, server):
    page = visit(server)
    status(page, 'An example')
    page.locator('#picture').focus()
    page.keyboard.press('Escape')
    status(page, 'cleared')
    page.keyboard.press('ArrowLeft')
    page.keyboard.press('Shift+ArrowUp')
    assert page.locator('#picture .cross').count() == 2
    page.keyboard.press(' ')
    status(page, '3 masks in')
    page.keyboard.press('m')
    page.wait_for_selector('#masks label:nth-of-type(2) input:checked', state='attached')
    page.keyboard.press('x')
    page.keyboard.press('ArrowLeft')
    page.keyboard.press(' ')
    status(page, '1 mask in')
    whole = page.locator('#picture').get_attribute('viewBox')
    page.keyboard.press('+')
    assert page.locator('#picture').get_attribute('viewBox') != whole
    page.keyboard.press('0')
    assert page.locator('#picture').get_attribute('viewBox') == whole


def test_files_that_are_refused_are_named_and_change_nothing(visit, server, photos, tmp_path):
    wrong, large, long = tmp_path / 'letter.jpg', tmp_path / 'wide.png', tmp_path / 'heavy.png'
    wrong.write_text('Dear Sir or Madam')
    Image.new('L', (700, 500)).save(large)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (600, 800, 3), dtype=np.uint8)).save(long)
    page = visit(server)
    status(page, 'An example')
    upload(page, photos[0])
    status(page, 'encoded')
    for path, message in (
        (wrong, r'letter\.jpg'),
        (large, 'wide.png has 700x500 pixels'),
        (long, 'the request is larger than'),
    ):
        upload(page, path)
        problem = page.locator('#problem', has_text=re.compile(message, re.IGNORECASE))
        problem.wait_for()
        assert str(tmp_path) not in problem.inner_text() and '/tmp' not in problem.inner_text()
    click(page, 0.4, 0.4)
    status(page, '3 masks in')


def test_two_visitors_at_once(visit, server, photos, tmp_path):
    pages = [visit(server), visit(server)]
    for page, path in zip(pages, photos, strict=True):
        status(page, 'An example')
        upload(page, path)
    for page, path in zip(pages, photos, strict=True):
        assert status(page, 'encoded').startswith(path.name)
    for page in pages:
        click(page, 0.3, 0.6)
    for page, path in zip(pages, photos, strict=True):
        status(page, '3 masks in')
        content = json.loads(download(page, 'Save COCO', tmp_path).read_text())
        assert content['images'][0]['file_name'] == path.name
        assert (content['images'][0]['width'], content['images'][0]['height']) == Image.open(path).size


def test_reconstruction_follows_the_slider(visit, server, photos):
    page = visit(server + 'reconstruct')
    status(page, '75 % of the patches masked')
    upload(page, photos[0])
    status(page, 'first.jpg: 75 % of the patches masked')
    picture = page.locator('#reconstruction')
    before = picture.get_attribute('src')
    page.locator('#ratio').focus()
    page.keyboard.press('ArrowLeft')
    status(page, 'first.jpg: 70 %')
    after = picture.get_attribute('src')
    assert after != before
    page.get_by_role('button', name='Other patches').click()
    page.wait_for_function('before => document.getElementById("reconstruction").src !== before', arg=after)


def test_files_of_the_machine_are_not_served(server, repo_root, checkpoint):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for path in (
        '/etc/passwd',
        str(repo_root / 'setup.cfg'),
        str(checkpoint),
        '../setup.cfg',
        '..%2fsetup.cfg',
    ):
        for route in ('', 'api/', 'file/', 'static/', 'api/segment/picture?visitor='):
            with pytest.raises(urllib.error.HTTPError) as refused:
                opener.open(f'{server}{route}{path}')
            assert refused.value.code in (403, 404, 405, 410)


def test_other_machines_do_not_reach_it(server):
    port = int(re.search(r':(\d+)', server)[1])
    others = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} - {
        '127.0.0.1'
    }
    with open('/proc/net/tcp') as file:
        listening = [
            line.split()[1]
            for line in file
            if line.split()[3] == '0A' and int(line.split()[1].rpartition(':')[2], 16) == port
        ]
    assert listening == [f'0100007F:{port:04X}']
    for address in others:
        with socket.socket() as client:
            client.settimeout(2)
            assert client.connect_ex((address, port)) != 0
