"""The page of ``mmssl demo`` in Chromium: files, clicks, boxes, downloads, wrong files, two visitors."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import numpy as np
import pytest
from PIL import Image

pytest.importorskip('gradio', reason="the page needs Gradio: pip install 'mmssl[page]'")
playwright = pytest.importorskip('playwright.sync_api', reason='driving a browser needs playwright')
pytest.importorskip('mmpretrain')
CHROMIUM = next(
    (path for path in map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome')) if path), None
)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason='no Chromium on this machine: apt-get install chromium'),
]
WAIT = 60_000


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
    """Address of a page with a small model, in a process of its own."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        '-m',
        'mmssl.cli',
        'demo',
        '--model',
        'smoke/sam.py',
        '--checkpoint',
        'random',
        '--mae',
        'smoke/mae.py',
        str(checkpoint),
        '--port',
        str(port),
        '--no-browser',
        '--max-upload',
        '1',
        '--max-pixels',
        '0.2',
        '--points-per-side',
        '4',
        '--pred-iou-thresh',
        '0',
        '--stability-score-thresh',
        '0',
        '--box-nms-thresh',
        '1',
    ]
    process = subprocess.Popen(
        command,
        cwd=repo_root,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(repo_root), 'no_proxy': '127.0.0.1'},
    )
    seen = []
    for line in process.stdout:
        seen.append(line)
        found = re.match(r'(http://\S+)', line)
        if found:
            break
    else:
        pytest.fail(''.join(seen))
    yield found[1]
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) in (0, 130, -signal.SIGINT)


@pytest.fixture(scope='module')
def browser():
    with playwright.sync_playwright() as starter:
        browser = starter.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        yield browser
        browser.close()


@pytest.fixture
def visit(server, browser):
    """Open the page as another visitor; what it asks of other machines fails the test."""
    contexts, outside = [], []

    def visit():
        context = browser.new_context(viewport=dict(width=1280, height=1000))
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT)
        page.on(
            'request',
            lambda request: (
                outside.append(request.url)
                if not request.url.startswith((server, 'data:', 'blob:', server.replace('http', 'ws')))
                else None
            ),
        )
        page.goto(server)
        page.wait_for_selector('#file')
        return page

    yield visit
    for context in contexts:
        context.close()
    assert not outside


@pytest.fixture
def photos(tmp_path):
    rng, paths = np.random.default_rng(0), []
    for name, size in (('first.jpg', (120, 160, 3)), ('second.png', (90, 150, 3))):
        paths.append(tmp_path / name)
        Image.fromarray(rng.integers(0, 255, size, dtype=np.uint8)).resize(size[1::-1]).save(paths[-1])
    return paths


def note(page, text: str) -> str:
    """The line below the picture, once it holds a text."""
    page.wait_for_function(
        'text => document.querySelector("#note .prose, #note.prose").innerText.includes(text)', arg=text
    )
    return page.inner_text('#note .prose, #note.prose')


def upload(page, path) -> None:
    page.set_input_files('#file input[type=file]', str(path))


def click(page, x: float, y: float) -> None:
    """Click at these shares of the picture."""
    image = page.locator('#canvas img')
    box = image.bounding_box()
    image.click(position=dict(x=x * box['width'], y=y * box['height']))


def choose(page, text: str) -> None:
    page.locator('#mode label', has_text=text).click()


def download(page, selector: str, folder):
    with page.expect_download() as waiting:
        page.locator(f'{selector} a').first.click()
    path = folder / waiting.value.suggested_filename
    waiting.value.save_as(path)
    return path


def test_click_box_all_masks_and_download(visit, photos, tmp_path):
    coco = pytest.importorskip('pycocotools.mask')
    page = visit()
    upload(page, photos[0])
    assert note(page, 'encoded').startswith('first.jpg: 160 x 120 pixels')
    click(page, 0.5, 0.5)
    assert note(page, ' ms').startswith('3 masks in')
    assert page.locator('#masks label').count() == 3
    choose(page, 'corner of a box')
    click(page, 0.2, 0.2)
    note(page, 'now the opposite corner')
    click(page, 0.8, 0.7)
    note(page, '1 mask in')
    page.click('#undo')
    note(page, '3 masks in')
    page.click('#everything')
    found = int(re.match(r'(\d+) masks in', note(page, ' s'))[1])
    page.click('#save')
    page.wait_for_selector('#coco a')
    content = json.loads(download(page, '#coco', tmp_path).read_text())
    assert content['images'][0]['file_name'] == 'first.jpg' and len(content['annotations']) == found > 3
    assert coco.decode(content['annotations'][0]['segmentation']).shape == (120, 160)
    numbers = np.asarray(Image.open(download(page, '#png', tmp_path)))
    assert numbers.shape == (120, 160) and numbers.max() <= found
    page.click('#clear')
    note(page, 'cleared')


def test_files_that_are_refused_are_named_and_change_nothing(visit, photos, tmp_path):
    wrong, large, long = tmp_path / 'letter.jpg', tmp_path / 'wide.png', tmp_path / 'heavy.png'
    wrong.write_text('Dear Sir or Madam')
    Image.new('L', (700, 400)).save(large)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (600, 800, 3), dtype=np.uint8)).save(long)
    page = visit()
    upload(page, photos[0])
    note(page, 'encoded')
    for path, message in (
        (wrong, r'letter\.jpg'),
        (large, 'wide.png has 700x400 pixels'),
        (long, 'exceed the maximum allowed size'),
    ):
        page.locator('#file button[aria-label*="lear"]').first.click()
        upload(page, path)
        toast = page.locator('.toast-body', has_text=re.compile(message, re.IGNORECASE))
        toast.first.wait_for()
        assert str(tmp_path) not in toast.first.inner_text() and '/tmp' not in toast.first.inner_text()
    click(page, 0.4, 0.4)
    note(page, '3 masks in')


def test_two_visitors_at_once(visit, photos, tmp_path):
    pages = [visit(), visit()]
    for page, path in zip(pages, photos, strict=True):
        upload(page, path)
    for page, path in zip(pages, photos, strict=True):
        assert note(page, 'encoded').startswith(path.name)
    for page in pages:
        click(page, 0.3, 0.6)
    for page in pages:
        note(page, '3 masks in')
        page.click('#save')
    for page, path in zip(pages, photos, strict=True):
        page.wait_for_selector('#coco a')
        content = json.loads(download(page, '#coco', tmp_path).read_text())
        assert content['images'][0]['file_name'] == path.name
        assert (content['images'][0]['width'], content['images'][0]['height']) == Image.open(path).size


def test_reconstruction_follows_the_slider(visit, photos):
    page = visit()
    page.get_by_role('tab', name='Reconstruct').click()
    page.set_input_files('#mae-file input[type=file]', str(photos[0]))
    picture = page.locator('#reconstruction img')
    picture.wait_for()
    before = picture.get_attribute('src')
    page.locator('#ratio input[type=range]').focus()
    page.keyboard.press('ArrowLeft')
    page.locator('#ratio input[type=range]').dispatch_event('pointerup')
    page.wait_for_function(
        'before => document.querySelector("#reconstruction img").src !== before', arg=before
    )
    assert picture.get_attribute('src') != before


def test_files_of_the_machine_are_not_served(server, repo_root, checkpoint):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for path in (
        '/etc/passwd',
        str(repo_root / 'setup.cfg'),
        str(checkpoint),
        '../setup.cfg',
        '..%2fsetup.cfg',
    ):
        for route in ('gradio_api/file=', 'file=', 'file/', 'static/'):
            with pytest.raises(urllib.error.HTTPError) as refused:
                opener.open(f'{server}{route}{path}')
            assert refused.value.code in (403, 404, 405)


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
