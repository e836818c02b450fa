"""Weights on model hubs: ``timm://NAME`` and ``hf://REPO`` name files on Hugging Face's."""

import os
import re

from mmssl.checkpoint.download import cache_path, download
from mmssl.errors import UserError

SCHEMES = ('timm://', 'hf://')
WEIGHTS = 'model.safetensors'
_SOURCE = re.compile(
    r'(?P<scheme>timm|hf)://(?P<repo>[\w.-]+(?:/[\w.-]+)?)(?:/(?P<file>[^@]+))?(?:@(?P<revision>[\w./-]+))?'
)


def hub_url(source: str) -> str:
    """Return the URL of weights on Hugging Face's hub, or on the mirror that ``HF_ENDPOINT`` names.

    Args:
        source: 'timm://NAME', such as 'timm://vit_small_patch14_dinov2.lvd142m', or 'hf://OWNER/REPO', with
            '/FILE' for another file than model.safetensors and '@REVISION' for a branch, tag or commit.

    Raises:
        UserError: The source has another form.
    """
    match = _SOURCE.fullmatch(source)
    repo = match['repo'] if match else ''
    if match is None or ('/' in repo) == (match['scheme'] == 'timm'):
        raise UserError(f"{source!r} is no source of weights; use 'timm://NAME' or 'hf://OWNER/REPO[/FILE]'")
    if match['scheme'] == 'timm':
        repo = f'timm/{repo}'
    endpoint = os.environ.get('HF_ENDPOINT', 'https://huggingface.co').rstrip('/')
    return f'{endpoint}/{repo}/resolve/{match["revision"] or "main"}/{match["file"] or WEIGHTS}'


def fetch(source: str | os.PathLike) -> str:
    """Return the path of a file with weights, downloading it if it is not there.

    Args:
        source: Path, URL, 'timm://NAME' or 'hf://OWNER/REPO', see :func:`hub_url`.

    Raises:
        UserError: The source has no known form.
        OSError: The download has failed.
    """
    name = os.fspath(source)
    if name.startswith(SCHEMES):
        url = hub_url(name)
        folder = name.partition('://')[2].replace('/', '--').replace('@', '--')
        return download(url, cache_path(url, os.path.join('hub', folder)))
    if name.startswith(('http://', 'https://')):
        return download(name, cache_path(name))
    return name
