"""A small model, a page with it, and a client that asks as the page's scripts do."""

import http.client
import json
import urllib.parse

import numpy as np
import torch
from PIL import Image

from mmssl.promptable import build_sam

SIZES = dict(
    image_encoder=dict(
        img_size=64, embed_dim=32, depth=2, num_heads=2, global_attn_indexes=(1,), window_size=3, out_chans=32
    ),
    mask_decoder=dict(transformer=dict(num_heads=4, mlp_dim=64), iou_head_hidden_dim=32),
)


def small_sam():
    torch.manual_seed(0)
    return build_sam(SIZES).eval()


def write_photo(path, size=(48, 64), seed=0, scale=1):
    """Write an image of noise; 16-bit with a scale of 256."""
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    if scale == 1:
        Image.fromarray(pixels).save(path)
    else:
        import tifffile

        tifffile.imwrite(path, pixels.astype(np.uint16) * scale, photometric='rgb')
    return path


class Client:
    """Requests to a page, as one visitor."""

    def __init__(self, url):
        parts = urllib.parse.urlsplit(url)
        self.address = (parts.hostname, parts.port)
        self.host = parts.netloc
        self.visitor = ''

    def request(self, method, path, body=None, **headers):
        """Return status and body."""
        connection = http.client.HTTPConnection(*self.address, timeout=30)
        try:
            connection.request(
                method, path, body, {name.replace('_', '-'): headers[name] for name in headers}
            )
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def enter(self, page):
        """Enter as a new visitor and return the state."""
        status, body = self.request('POST', f'/api/{page}/visit', b'{}')
        assert status == 200, body
        content = json.loads(body)
        self.visitor = content['visitor']
        return content.get('state')

    def post(self, path, **data):
        """Return the JSON of an answer, or the text of a refusal."""
        status, body = self.request('POST', f'/api/{path}', json.dumps(data), X_Visitor=self.visitor)
        return json.loads(body) if status == 200 else body.decode()

    def upload(self, data, name='a.png', path='segment', **headers):
        """Return status and text."""
        headers = dict(X_Visitor=self.visitor, X_File_Name=urllib.parse.quote(name), **headers)
        status, body = self.request('POST', f'/api/{path}/upload', data, **headers)
        return status, body.decode()

    def get(self, path):
        """Return status and content of a file of the visitor."""
        return self.request('GET', f'/api/{path}?visitor={self.visitor}')
