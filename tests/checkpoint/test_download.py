"""A download that fails says which URL, where to put the file, and how to start without it."""

import http.server
import threading

import pytest
import torch
from mmengine.runner import checkpoint as toolbox

import mmssl  # noqa: F401, patches the toolbox
from mmssl.apis import models


@pytest.fixture
def missing_url():
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(404)

        def log_message(self, *_):
            """Print nothing."""

    with http.server.HTTPServer(('127.0.0.1', 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f'http://127.0.0.1:{server.server_port}/weights/a.pth'
        server.shutdown()
        thread.join()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    return tmp_path / 'checkpoints'


@pytest.mark.parametrize('refused', [False, True])
@pytest.mark.parametrize(
    'load', [lambda url: models._download(url), lambda url: toolbox._load_checkpoint(url)]
)
def test_a_failed_download_is_explained(missing_url, hub, load, refused):
    url = 'http://127.0.0.1:1/weights/a.pth' if refused else missing_url
    with pytest.raises(OSError, match='cannot download') as caught:
        load(url)
    message = str(caught.value)
    assert url in message and str(hub / 'a.pth') in message and 'start without it: ' in message
    assert ('refused' if refused else '404') in message and '\n' not in message
    assert not list(hub.glob('*'))


def test_a_file_that_was_put_there_is_used(hub):
    hub.mkdir()
    torch.save(dict(weight=torch.ones(2)), hub / 'a.pth')
    url = 'http://127.0.0.1:1/weights/a.pth'
    assert models._download(url) == str(hub / 'a.pth')
    assert toolbox._load_checkpoint(url, map_location='cpu')['weight'].tolist() == [1, 1]
