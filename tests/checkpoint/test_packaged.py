"""Weights by name: files in the package, and released files from a server."""

import hashlib
import http.server
import json
import threading
from pathlib import Path

import pytest
import torch
import yaml

from mmssl.checkpoint import packaged
from mmssl.checkpoint.packaged import RELEASED, automatic_file, packaged_file
from mmssl.config.load import find_config
from mmssl.errors import CheckpointError, ChecksumError
from mmssl.weights import FOLDER, find_packaged, packaged_weights

NAMES = ('sam-mini', 'mae-mini', 'dino-mini')


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server of the file ``vit.pth``; torch's folder for checkpoints is another one."""
    content = b'weights' * 1000
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.send_header('Content-Length', str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            """Print nothing."""

    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    with http.server.HTTPServer(('127.0.0.1', 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, daemon=True)
        thread.start()
        yield f'http://127.0.0.1:{httpd.server_port}/vit.pth', content, asked
        httpd.shutdown()
        thread.join()


def test_a_released_file_is_downloaded_once_and_checked(server, tmp_path, monkeypatch):
    url, content, asked = server
    checksum = hashlib.sha256(content).hexdigest()
    monkeypatch.setitem(RELEASED, 'vit_b', (url, checksum))
    path = automatic_file('vit_b')
    assert Path(path) == tmp_path / 'checkpoints/vit.pth' and Path(path).read_bytes() == content
    assert automatic_file('vit_b') == path and asked == ['/vit.pth']
    Path(path).unlink()
    monkeypatch.setitem(RELEASED, 'vit_b', (url, '0' * 64))
    with pytest.raises(ChecksumError, match='expected 000'):
        automatic_file('vit_b')
    assert not list((tmp_path / 'checkpoints').iterdir())


def test_released_files_are_those_of_the_authors():
    for name, (url, checksum) in RELEASED.items():
        assert url.startswith(('https://dl.fbaipublicfiles.com/', 'https://github.com/ChaoningZhang/')), name
        assert len(checksum) == 64 and int(checksum, 16)


def test_unknown_names_get_a_hint():
    with pytest.raises(ValueError, match="no weights are known for 'sam-mimi'.*did you mean 'sam-mini'"):
        automatic_file('sam-mimi')


def test_the_index_is_complete_and_true():
    assert set(packaged_weights()) == set(NAMES)
    files = {path.name for path in FOLDER.iterdir() if path.is_file()}
    assert files == {'__init__.py', 'README.md', 'index.json', 'sources.csv'} | {
        entry.file for entry in packaged_weights().values()
    }
    card = (FOLDER / 'README.md').read_text(encoding='utf-8')
    for entry in packaged_weights().values():
        assert (FOLDER / entry.file).stat().st_size == entry.bytes <= 8e6
        assert packaged_file(entry) == str(FOLDER / entry.file)
        assert find_config(entry.name) == find_config(entry.config)
        assert f'## {entry.name}' in card and entry.sha256 in card
        for score in entry.scores.values():
            assert f'{score:g}' in card, f'the card does not have the score {score:g}'


def test_metafiles_name_the_files(repo_root):
    for entry in packaged_weights().values():
        path = repo_root / 'configs' / entry.config.partition('/')[0] / 'metafile.yml'
        models = yaml.safe_load(path.read_text())['Models']
        (model,) = (each for each in models if each['Config'] == f'configs/{entry.config}.py')
        assert model['Weights'] == f'mmssl/weights/{entry.file}'


def test_a_damaged_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(packaged, 'FOLDER', tmp_path)
    entry = packaged_weights()['dino-mini']
    with pytest.raises(CheckpointError, match='is missing'):
        packaged_file(entry)
    (tmp_path / entry.file).write_bytes(b'damaged')
    with pytest.raises(CheckpointError, match=f'expected {entry.sha256[:12]}'):
        packaged_file(entry)


def test_sources_name_a_free_licence_each():
    rows = (FOLDER / 'sources.csv').read_text(encoding='utf-8').splitlines()
    assert rows[0] == 'file,used for,licence,address' and len(rows) > 50
    for row in rows[1:]:
        assert row.split(',')[2] in ('CC BY 2.0', 'CC BY-SA 2.0', 'no known copyright restrictions'), row


def test_names_are_found_in_every_form():
    entry = packaged_weights()['sam-mini']
    for name in ('sam-mini', entry.config, f'configs/{entry.config}.py', f'mmssl::{entry.config}.py'):
        assert find_packaged(name) is entry
    assert find_packaged('sam') is None
    assert json.loads((FOLDER / 'index.json').read_text())['sam-mini']['sha256'] == entry.sha256
