"""The page refuses foreign sites, too many or too large uploads and slow clients, and forgets visitors."""

import http.client
import json
import os
import socket
import time
import types
import urllib.parse
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmssl.commands.demo import check_arguments, start_server
from mmssl.commands.parser import command_parser
from mmssl.demo_page.app import PageSettings, build
from mmssl.demo_page.guard import AllowedHosts, Limits, is_loopback
from mmssl.promptable import build_sam

gradio = pytest.importorskip('gradio', reason="the page needs Gradio: pip install 'mmssl[page]'")

SIZES = dict(
    image_encoder=dict(
        img_size=64, embed_dim=32, depth=2, num_heads=2, global_attn_indexes=(1,), window_size=3, out_chans=32
    ),
    mask_decoder=dict(transformer=dict(num_heads=4, mlp_dim=64), iou_head_hidden_dim=32),
)
BOUNDARY = 'limit-of-parts'


class Client:
    """Requests to a page."""

    def __init__(self, url, page):
        parts = urllib.parse.urlsplit(url)
        self.address = (parts.hostname, parts.port)
        self.host = parts.netloc
        self.page = page

    def request(self, method, path, body=None, **headers):
        connection = http.client.HTTPConnection(*self.address, timeout=30)
        try:
            connection.request(
                method, path, body, {name.replace('_', '-'): headers[name] for name in headers}
            )
            response = connection.getresponse()
            return response.status, response.read().decode(errors='replace')
        finally:
            connection.close()

    def upload(self, data, name='a.png', **headers):
        form = (
            f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n'
            f'Content-Type: image/png\r\n\r\n'
        ).encode()
        body = form + data + f'\r\n--{BOUNDARY}--\r\n'.encode()
        content_type = f'multipart/form-data; boundary={BOUNDARY}'
        return self.request('POST', '/gradio_api/upload', body, Content_Type=content_type, **headers)


@pytest.fixture
def start(tmp_path, monkeypatch):
    monkeypatch.setenv('GRADIO_TEMP_DIR', str(tmp_path / 'uploads'))
    monkeypatch.setenv('GRADIO_ANALYTICS_ENABLED', 'False')
    monkeypatch.setenv('no_proxy', '127.0.0.1,localhost')
    os.makedirs(tmp_path / 'uploads')
    pages = []

    def start(*options, **limits):
        torch.manual_seed(0)
        page = build(PageSettings(model=build_sam(SIZES).eval()))
        args = command_parser('demo').parse_args(['--no-browser', *options])
        url = start_server(page, gradio, args, Limits(**limits) if limits else None)
        pages.append(page)
        return Client(url, page)

    yield start
    for page in pages:
        page.close()


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / 'photo.png'
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(path)
    return path.read_bytes()


def test_foreign_names_and_sites_are_refused(start, photo):
    client = start()
    assert client.request('GET', '/')[0] == 200
    status, text = client.request('GET', '/', Host='evil.example')
    assert status == 403 and 'evil.example' in text and 'mmssl demo' in text
    assert client.request('GET', '/', Host=f'evil.example:{client.address[1]}')[0] == 403
    assert client.request('GET', '/config', Host='192.0.2.1')[0] == 403
    assert client.request('GET', '/', Host=f'localhost:{client.address[1]}')[0] == 200
    for origin in ('http://evil.example', 'null', 'http://127.0.0.1:1', 'http://localhost'):
        status, text = client.upload(photo, Origin=origin)
        assert status == 403 and 'only the page itself' in text
    assert not client.page.upload_file_set
    assert client.upload(photo, Origin=f'http://{client.host}')[0] == 200
    assert client.upload(photo)[0] == 200  # not a browser


def test_uploads_are_limited_in_size_number_and_sum(start, photo):
    client = start(file_bytes=200_000, total_bytes=300_000, files=3, header_seconds=20)
    assert client.upload(bytes(300_000))[0] == 413
    assert client.upload(os.urandom(190_000), '1.png')[0] == 200
    assert client.upload(os.urandom(190_000), '2.png')[0] == 200
    status, text = client.upload(photo)
    assert status == 507 and '2 uploads' in text
    for path in client.page.upload_file_set:
        os.remove(path)
    for index in range(3):
        assert client.upload(photo + bytes([index]))[0] == 200
    assert client.upload(photo + b'x')[0] == 507


def test_slow_clients_are_closed(start):
    client = start(body_seconds=0.5, header_seconds=0.5)
    with socket.create_connection(client.address, timeout=20) as silent:
        silent.sendall(b'GET / HTTP/1.1\r\nHost: ')
        assert silent.recv(100) == b''
    with socket.create_connection(client.address, timeout=20) as slow:
        slow.sendall(
            f'POST /gradio_api/upload HTTP/1.1\r\nHost: {client.host}\r\nContent-Length: 1000\r\n'
            f'Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n--'.encode()
        )
        assert b' 408 ' in slow.recv(1000).partition(b'\r\n')[0]
    asking = f'GET /theme.css HTTP/1.1\r\nHost: {client.host}\r\n'.encode()
    for rest in (b'GET / HTTP/1.1\r\nHost: ', b'\r\n', b''):
        with socket.create_connection(client.address, timeout=20) as again:
            again.sendall(asking + b'\r\n')
            received = again.recv(1000)
            assert received.startswith(b'HTTP/1.1 200')
            again.sendall(rest)  # after a response, the next header is expected in time too
            while received:
                received = again.recv(1 << 20)
    with socket.create_connection(client.address, timeout=20) as used:
        for _ in range(4):  # one that sends requests stays open
            used.sendall(asking + b'\r\n')
            assert used.recv(1 << 20)
            time.sleep(0.2)
    assert client.request('GET', '/')[0] == 200


def test_a_client_that_reads_nothing_is_closed(start):
    client = start(unread_seconds=0.3)
    with socket.socket() as unread:
        unread.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        unread.settimeout(20)
        unread.connect(client.address)
        request = f'GET /config HTTP/1.1\r\nHost: {client.host}\r\n\r\n'.encode()
        # answers that do not fit into the buffers of both sides
        with pytest.raises(ConnectionError):
            for _ in range(2000):
                unread.sendall(request * 20)
                time.sleep(0.002)
    assert client.request('GET', '/')[0] == 200


def test_an_upload_is_removed_and_a_visitor_is_forgotten(start, photo):
    client = start()
    (path,) = json.loads(client.upload(photo)[1])
    function = next(index for index, fn in client.page.fns.items() if 'upload' in str(fn.name))
    file = dict(path=path, meta={'_type': 'gradio.FileData'}, orig_name='a.png')
    body = json.dumps(dict(data=[file, None], fn_index=function, session_hash='visitor'))
    beat = http.client.HTTPConnection(*client.address, timeout=30)
    beat.request('GET', '/gradio_api/heartbeat/visitor')
    response = beat.getresponse()
    assert client.request('POST', '/gradio_api/queue/join', body, Content_Type='application/json')[0] == 200
    status, events = client.request('GET', '/gradio_api/queue/data?session_hash=visitor')
    assert status == 200 and '"success":true' in events.replace(' ', ''), events
    assert not Path(path).exists()
    sessions = client.page.state_holder.session_data
    assert any(value is not None for value in sessions['visitor'].state_data.values())
    response.close()
    beat.close()
    deadline = time.monotonic() + 30
    while 'visitor' in sessions and time.monotonic() < deadline:
        time.sleep(0.1)
    assert 'visitor' not in sessions


def test_a_password_is_asked_for(start):
    client = start('--auth', 'me:secret:word')
    assert client.request('GET', '/config')[0] == 401
    form = dict(Content_Type='application/x-www-form-urlencoded')
    assert client.request('POST', '/login', 'username=me&password=wrong', **form)[0] == 400
    assert client.request('POST', '/login', 'username=me&password=secret:word', **form)[0] == 200


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--host', '0.0.0.0'], 'admits everybody who reaches this machine: add --auth USER:PASSWORD'),
        (['--host', '::'], 'add --auth'),
        (['--host', '0.0.0.0', '--auth', 'me'], 'must be USER:PASSWORD'),
        (['--auth', ':secret'], 'must be USER:PASSWORD'),
    ],
)
def test_other_machines_need_a_password(options, message):
    with pytest.raises(ValueError, match=message):
        check_arguments(command_parser('demo').parse_args(options))


def test_allowed_hosts():
    names = types.MappingProxyType(dict(names=('box', 'box.lan')))
    everywhere = AllowedHosts('0.0.0.0', **names)
    assert all(
        host in everywhere for host in ('10.0.0.1:7860', '[::1]:7860', 'BOX:7860', 'box.lan', 'localhost')
    )
    assert not any(host in everywhere for host in ('evil.example', '', 'box.evil.example:7860'))
    local = AllowedHosts('127.0.0.1', **names)
    assert '127.0.0.1:7860' in local and '10.0.0.1' not in local and 'box' not in local
    assert is_loopback('127.0.0.2') and is_loopback('::1') and not is_loopback('0.0.0.0')
