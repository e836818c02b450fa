"""The page refuses foreign sites, too many or too large uploads and slow clients, and forgets visitors."""

import base64
import http.client
import json
import socket
import time
import types
from pathlib import Path

import pytest

pytest.importorskip('uvicorn', reason="the page needs uvicorn: pip install 'mmssl[page]'")
from page_client import Client, small_sam, write_photo

from mmssl.commands.demo_checks import check_arguments
from mmssl.commands.demo_model import choose_mae, choose_model
from mmssl.commands.parser import command_parser
from mmssl.demo_page.app import PageSettings, build
from mmssl.demo_page.guard import AllowedHosts, Limits, is_loopback
from mmssl.demo_page.server import PageServer
from mmssl.demo_page.visitors import UnknownVisitorError, Visitors, all_uploads, file_name


@pytest.fixture(scope='module')
def model():
    return small_sam()


@pytest.fixture
def start(tmp_path, model):
    servers = []

    def start(auth=None, **limits):
        folder = tmp_path / 'uploads'
        folder.mkdir(exist_ok=True)
        app = build(PageSettings(folder, model=model, model_name='tiny'))
        server = PageServer(app, auth=auth, limits=Limits(**limits))
        servers.append(server)
        client = Client(server.url)
        client.folder, client.visitors = folder, app.state.visitors
        return client

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def photo(tmp_path):
    return write_photo(tmp_path / 'photo.png').read_bytes()


def test_foreign_names_and_sites_are_refused(start, photo):
    client = start()
    assert client.request('GET', '/')[0] == 200
    status, text = client.request('GET', '/', Host='evil.example')
    assert status == 403 and b'evil.example' in text and b'mmssl demo' in text
    assert client.request('GET', '/', Host=f'evil.example:{client.address[1]}')[0] == 403
    assert client.request('GET', '/static/page.css', Host='192.0.2.1')[0] == 403
    assert client.request('GET', '/', Host=f'localhost:{client.address[1]}')[0] == 200
    client.enter('segment')
    for origin in ('http://evil.example', 'null', 'http://127.0.0.1:1', 'http://localhost'):
        status, text = client.upload(photo, Origin=origin)
        assert status == 403 and 'only the page itself' in text
        assert client.request('POST', '/api/segment/visit', b'{}', Origin=origin)[0] == 403
    assert len(client.visitors) == 1
    assert client.upload(photo, Origin=f'http://{client.host}')[0] == 200
    assert client.upload(photo)[0] == 200  # not a browser


def test_pages_run_no_script_and_no_style_but_their_own(start):
    client = start()
    connection = http.client.HTTPConnection(*client.address, timeout=30)
    connection.request('GET', '/')
    response = connection.getresponse()
    policy, page = response.getheader('content-security-policy'), response.read().decode()
    connection.close()
    assert "default-src 'none'" in policy and "script-src 'self'" in policy and 'unsafe' not in policy
    assert 'style=' not in page and 'onclick' not in page and page.count('http') == 1
    assert 'tiny, 0.1 million parameters, on the CPU' in page and 'This model is small' in page
    assert client.request('GET', '/static/../session.py')[0] == 404
    assert client.request('GET', '/static/%2e%2e/session.py')[0] == 404


def test_uploads_are_limited_in_size_number_and_sum(start, photo):
    client = start(file_bytes=200_000, total_bytes=300_000, files=3)
    client.enter('segment')
    assert client.upload(bytes(300_000))[0] == 413
    for index in range(2):  # as if they were being read
        folder = client.folder / f'upload-{index}'
        folder.mkdir()
        (folder / 'a.png').write_bytes(bytes(190_000))
    status, text = client.upload(photo)
    assert status == 507 and '2 uploads' in text
    for index in range(2):
        (client.folder / f'upload-{index}/a.png').write_bytes(b'')
    assert client.upload(photo)[0] == 200
    (client.folder / 'upload-1/b.png').write_bytes(b'')
    assert client.upload(photo)[0] == 507


def test_slow_clients_are_closed(start):
    client = start(body_seconds=0.5, header_seconds=0.5)
    with socket.create_connection(client.address, timeout=20) as silent:
        silent.sendall(b'GET / HTTP/1.1\r\nHost: ')
        assert silent.recv(100) == b''
    client.enter('segment')
    with socket.create_connection(client.address, timeout=20) as slow:
        slow.sendall(
            f'POST /api/segment/upload HTTP/1.1\r\nHost: {client.host}\r\nContent-Length: 1000\r\n'
            f'X-Visitor: {client.visitor}\r\nX-File-Name: a.png\r\n\r\n--'.encode()
        )
        assert b' 408 ' in slow.recv(1000).partition(b'\r\n')[0]
    assert not all_uploads(client.folder)
    asking = f'GET /static/server.js HTTP/1.1\r\nHost: {client.host}\r\n'.encode()
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
        request = f'GET / HTTP/1.1\r\nHost: {client.host}\r\n\r\n'.encode()
        # answers that do not fit into the buffers of both sides
        with pytest.raises(ConnectionError):
            for _ in range(2000):
                unread.sendall(request * 20)
                time.sleep(0.002)
    assert client.request('GET', '/')[0] == 200


def test_an_upload_is_removed_and_a_visitor_is_forgotten(start, photo):
    client = start()
    client.enter('segment')
    other = Client(f'http://{client.host}/')
    other.enter('segment')
    status, state = client.upload(photo, '../../etc/Bär photo.png')
    assert status == 200 and json.loads(state)['image'] == dict(name='Bär photo.png', width=64, height=48)
    assert not all_uploads(client.folder) and not list(client.folder.iterdir())
    assert client.get('segment/picture')[0] == 200
    assert 'no image yet' in other.get('segment/picture')[1].decode(), 'each visitor has a separate image'
    assert client.request('POST', '/api/leave', client.visitor)[0] == 204
    assert client.visitor not in client.visitors and other.visitor in client.visitors
    assert client.get('segment/picture') == (410, b'this visit has ended; reload the page')
    assert client.upload(photo)[0] == 410 and not all_uploads(client.folder)
    assert client.request('GET', '/api/segment/picture')[0] == 410


def test_requests_that_are_no_requests_of_the_page(start, photo):
    client = start()
    client.enter('segment')
    client.upload(photo)
    assert client.post('segment/click', x=1, mode='object') == 'y=None; a number is needed'
    assert 'a number is needed' in client.post('segment/click', x=True, y=[2], mode='object')
    assert 'a text is needed' in client.post('segment/click', x=1, y=1, mode=3)
    assert 'is outside of the image' in client.post('segment/click', x=1e9, y=1, mode='object')
    assert 'there is no sample' in client.post('segment/sample', name='/etc/passwd')
    assert client.request('POST', '/api/segment/click', b'[1', X_Visitor=client.visitor)[0] == 400
    assert client.request('POST', '/api/segment/click', b'[1]', X_Visitor=client.visitor)[0] == 400
    status, text = client.upload(b'Dear Sir or Madam', 'letter.jpg')
    assert status == 400 and text.startswith('letter.jpg') and str(client.folder) not in text


def test_visitors_who_do_nothing_are_forgotten():
    now, gone = [0.0], []
    visitors = Visitors(lambda visitor: object(), gone.append, limit=2, idle_seconds=10, clock=lambda: now[0])
    first, second = visitors.enter(), visitors.enter()
    now[0] = 5
    with visitors.session(first):
        pass
    third = visitors.enter()
    assert gone == [second], 'the one who has been idle for the longest time makes room'
    now[0] = 15.5
    with visitors.session(third):
        pass
    visitors.forget_idle()
    assert gone == [second, first] and third in visitors
    with pytest.raises(UnknownVisitorError), visitors.session(first):
        pass


def test_names_of_uploads_stay_in_their_folder():
    assert file_name('../../etc/passwd') == 'passwd' and file_name('C:\\photos\\a.tif') == 'a.tif'
    assert file_name('..') == file_name('') == file_name('\0\n') == 'image'
    assert file_name('a\0b\n.png') == 'ab.png'
    assert len(file_name('ä' * 300 + '.jpeg').encode()) <= 120 and file_name('ä' * 300 + '.jpeg').endswith(
        '.jpeg'
    )


def test_a_password_is_asked_for(start):
    client = start('me:secret:word')

    def sent(text):
        return 'Basic ' + base64.b64encode(text.encode()).decode()

    assert client.request('GET', '/')[0] == 401
    assert client.request('POST', '/api/segment/visit', b'{}')[0] == 401
    begin = time.monotonic()
    for wrong in (sent('me:wrong'), 'Basic ?', 'Bearer x'):
        assert client.request('GET', '/', Authorization=wrong)[0] == 401
    assert time.monotonic() - begin > 2, 'trying many passwords takes long'
    assert client.request('GET', '/', Authorization=sent('me:secret:word'))[0] == 200


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--host', '0.0.0.0'], 'admits everybody who reaches this machine: add --auth USER:PASSWORD'),
        (['--host', '::'], 'add --auth'),
        (['--host', '0.0.0.0', '--auth', 'me'], 'must be USER:PASSWORD'),
        (['--auth', ':secret'], 'must be USER:PASSWORD'),
        (['--data', 'photos'], '--data photos needs --out'),
        (['--out', 'labels'], '--out labels needs --data'),
        (['--order', 'list.txt'], '--order is of the labelling page: add --data DIR --out DIR'),
        (['--port', '0'], '--port 0 must be from 1 to 65535'),
    ],
)
def test_arguments_that_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        check_arguments(command_parser('demo').parse_args(options))


def test_models_of_the_package_are_used_where_none_is_given(capsys):
    args = command_parser('demo').parse_args([])
    choose_model(args)
    assert 'sam-mini' in capsys.readouterr().out
    choose_mae(args)
    assert (args.model_name, args.mae_name) == ('sam-mini', 'mae-mini')
    assert all(Path(path).is_file() for path in (args.checkpoint, args.mae[1]))
    args = command_parser('demo').parse_args(
        ['--data', 'photos', '--model', 'a/b.py', '--checkpoint', 'random']
    )
    choose_model(args)
    choose_mae(args)
    assert args.model_name == 'b' and args.mae is None


def test_a_port_in_use_is_named(start):
    client = start()
    with pytest.raises(OSError, match=f'--port {client.address[1]} cannot be used .*; name another'):
        PageServer(build(PageSettings(client.folder)), port=client.address[1])


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
