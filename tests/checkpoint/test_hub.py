"""Weights from hubs and URLs: a server on this machine that breaks off, lies, or is not there."""

import hashlib
import http.server
import threading

import pytest
import timm
import torch
from mmengine.runner import load_checkpoint
from safetensors.torch import save

import mmssl.registry  # noqa: F401  patches mmengine
from mmssl.apis import get_backbone
from mmssl.checkpoint.download import download
from mmssl.checkpoint.hub import fetch, hub_url
from mmssl.errors import ChecksumError, UserError
from mmssl.layers.vit import ViT
from mmssl.registry import MODELS, build

TINY = dict(embed_dims=192, num_layers=1, num_heads=3, feedforward_channels=768)


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves the files of its server, from the byte that is asked for; breaks off where it is told to."""

    def do_GET(self):
        self.server.requests.append((self.path, self.headers.get('Range')))
        content = self.server.files.get(self.path)
        if content is None:
            self.send_error(404)
            return
        start = int((self.headers.get('Range') or 'bytes=0-').removeprefix('bytes=').rstrip('-'))
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header('Content-Length', str(len(content) - start))
        if self.server.states_checksum:
            self.send_header('X-Linked-Etag', f'"{hashlib.sha256(content).hexdigest()}"')
        self.end_headers()
        stop = self.server.break_at.pop() if self.server.break_at else len(content)
        self.wfile.write(self.server.damage(content[start:stop]))

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A server of weights; torch's cache is a new folder."""
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    server.files, server.requests, server.break_at = {}, [], []
    server.states_checksum = True
    server.damage = lambda content: content
    server.url = f'http://127.0.0.1:{server.server_port}'
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv('HF_ENDPOINT', server.url)
    monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path / 'hub'))
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope='module')
def released():
    """Weights of a model of timm, and the file that the hub has of them."""
    torch.manual_seed(0)
    model = timm.create_model('vit_tiny_patch16_224', num_classes=0, img_size=32, depth=1).eval()
    weights = model.state_dict()
    return weights, save({key: value.contiguous() for key, value in weights.items()})


def test_urls_of_sources():
    assert hub_url('timm://vit_base.x').endswith(
        'huggingface.co/timm/vit_base.x/resolve/main/model.safetensors'
    )
    assert hub_url('hf://a/b@v2').endswith('/a/b/resolve/v2/model.safetensors')
    assert hub_url('hf://a/b/sub/x.pth').endswith('/a/b/resolve/main/sub/x.pth')
    for wrong in ('hf://a', 'timm://a/b', 'hf://', 'hf://a b/c'):
        with pytest.raises(UserError, match='no source of weights'):
            hub_url(wrong)


@pytest.mark.parametrize('source', ['timm://vit_tiny', 'hf://owner/repo', 'URL'])
def test_a_backbone_starts_from_a_hub(server, released, source):
    weights, content = released
    server.files = {
        '/timm/vit_tiny/resolve/main/model.safetensors': content,
        '/owner/repo/resolve/main/model.safetensors': content,
        '/x.safetensors': content,
    }
    checkpoint = f'{server.url}/x.safetensors' if source == 'URL' else source
    backbone = build(
        dict(
            type='mmssl.ViT', arch=TINY, img_size=32, init_cfg=dict(type='Pretrained', checkpoint=checkpoint)
        ),
        MODELS,
    )
    backbone.init_weights()
    assert torch.equal(backbone.layers[0].attn.qkv.weight, weights['blocks.0.attn.qkv.weight'])
    ours = get_backbone('vit_tiny_patch16_224', checkpoint=checkpoint, arch=TINY)
    x = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(ours(x)[-1], backbone.eval()(x)[-1])
    assert len(server.requests) == 1  # the second read is from the cache


def test_a_released_file_loads_into_a_whole_model(released, tmp_path):
    weights, content = released
    (tmp_path / 'x.safetensors').write_bytes(content)
    model = torch.nn.Module()
    model.backbone = ViT(TINY, img_size=32)
    load_checkpoint(model, str(tmp_path / 'x.safetensors'))
    assert torch.equal(model.backbone.pos_embed, weights['pos_embed'])


def test_a_broken_download_goes_on_where_it_stopped(server, tmp_path):
    server.files['/x.pth'] = bytes(range(256)) * 40
    server.break_at = [5000]
    path = str(tmp_path / 'x.pth')
    with pytest.raises(OSError, match=r'5000 of 10240 bytes.*put it at'):
        download(f'{server.url}/x.pth', path)
    assert (tmp_path / 'x.pth.part').stat().st_size == 5000 and not (tmp_path / 'x.pth').exists()
    assert download(f'{server.url}/x.pth', path) == path
    assert (tmp_path / 'x.pth').read_bytes() == server.files['/x.pth']
    assert server.requests[-1] == ('/x.pth', 'bytes=5000-')


def test_a_part_of_another_file_is_thrown_away(server, tmp_path):
    server.files['/x.pth'] = b'short'
    (tmp_path / 'x.pth.part').write_bytes(b'something longer')
    download(f'{server.url}/x.pth', str(tmp_path / 'x.pth'))
    assert (tmp_path / 'x.pth').read_bytes() == b'short'


def test_a_damaged_file_is_not_kept(server, tmp_path):
    server.files['/x.pth'] = b'content' * 100
    server.damage = lambda content: content[:-1] + b'!'
    with pytest.raises(ChecksumError, match='SHA-256'):
        download(f'{server.url}/x.pth', str(tmp_path / 'x.pth'))
    assert list(tmp_path.glob('x*')) == []
    server.states_checksum = False
    with pytest.raises(ChecksumError, match='expected abc123'):
        download(f'{server.url}/x.pth', str(tmp_path / 'x.pth'), sha256='abc123')


def test_what_is_not_there_is_named(server):
    with pytest.raises(OSError, match=r'cannot download .*/owner/none/.* 404'):
        fetch('hf://owner/none')
