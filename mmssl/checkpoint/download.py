"""Downloads of weights: into a cache, checked, continued after a break, explained where they fail."""

import contextlib
import hashlib
import http.client
import os
import re
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator

from mmssl.errors import ChecksumError

# seconds without a byte after which a connection counts as dead; torch itself would wait without end
SILENCE_SECONDS = 60
WITHOUT_CONFIG = '--cfg-options load_from=None, or init_cfg=None of the part that names the URL'


def download_path(url: str, folder: str | os.PathLike | None = None, name: str | None = None) -> str:
    """Return where a downloaded file is kept; a file that is there already is not downloaded.

    Args:
        url: Address of the file.
        folder: Folder for downloads; torch's folder for checkpoints if None.
        name: Name of the file; the last part of the URL if None.
    """
    import torch

    folder = folder or os.path.join(torch.hub.get_dir(), 'checkpoints')
    return os.path.join(os.fspath(folder), name or url.partition('?')[0].rsplit('/', 1)[-1])


def cache_path(url: str, folder: str = '') -> str:
    """Return where the file of a URL is kept: in torch's folder for checkpoints, or a folder inside it."""
    path = download_path(url)
    return os.path.join(os.path.dirname(path), folder, os.path.basename(path))


def download(
    url: str, path: str, sha256: str = '', progress: bool = True, alternative: str = WITHOUT_CONFIG
) -> str:
    """Download a file unless it is there; a download that was broken off goes on where it stopped.

    What arrives is kept in ``path + '.part'`` and renamed when it is whole.

    Args:
        url: Address of the file.
        path: Where the file is kept.
        sha256: First hexadecimal digits of the checksum that the file must have. A server that states the
            checksum (Hugging Face's does) is taken at its word too.
        progress: Whether a progress bar is shown on a terminal.
        alternative: How to start without the file, for the message.

    Returns:
        ``path``.

    Raises:
        OSError: The download has failed; the message says where to put the file.
        ChecksumError: The file is not the one that was asked for.
    """
    if os.path.isfile(path):
        return path
    os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
    with explained_download(url, path, alternative):
        stated = _receive(url, f'{path}.part', progress)
        _check(f'{path}.part', url, [sum for sum in (sha256, stated) if sum])
        os.replace(f'{path}.part', path)
    return path


def _receive(url: str, part: str, progress: bool) -> str:
    """Append what is missing to a part of a file; return the checksum that the server states, if any."""
    from tqdm import tqdm

    start = os.path.getsize(part) if os.path.exists(part) else 0
    headers = {'User-Agent': 'mmssl', **({'Range': f'bytes={start}-'} if start else {})}
    redirects = _Redirects()
    try:
        response = urllib.request.build_opener(redirects).open(urllib.request.Request(url, headers=headers))
    except urllib.error.HTTPError as error:
        if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        os.remove(part)  # the file on the server is shorter than the part, so it is another one
        return _receive(url, part, progress)
    with response:
        if response.status != http.client.PARTIAL_CONTENT:
            start = 0
        length = response.headers.get('Content-Length')
        total = start + int(length) if length else None
        bar = tqdm(
            total=total,
            initial=start,
            unit='B',
            unit_scale=True,
            desc=os.path.basename(part).removesuffix('.part'),
            leave=False,
            disable=None if progress else True,
        )
        with bar, open(part, 'ab' if start else 'wb') as file:
            while chunk := response.read(1 << 20):
                file.write(chunk)
                bar.update(len(chunk))
        if total is not None and os.path.getsize(part) < total:
            raise OSError(
                f'the connection broke off after {os.path.getsize(part)} of {total} bytes; the next attempt '
                'goes on there'
            )
        return redirects.checksum or _checksum_of(response.headers)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, and keeps the checksum that the first server states."""

    def __init__(self):
        self.checksum = ''

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        self.checksum = self.checksum or _checksum_of(headers)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _checksum_of(headers) -> str:
    """SHA-256 in the headers of Hugging Face's hub for large files; '' for other servers."""
    etag = (headers.get('X-Linked-Etag') or '').strip('W/"').lower()
    return etag if re.fullmatch(r'[0-9a-f]{64}', etag) else ''


def _check(part: str, url: str, expected: list[str]) -> None:
    if not expected:
        return
    digest = hashlib.sha256()
    with open(part, 'rb') as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    checksum = digest.hexdigest()
    for digits in expected:
        if not checksum.startswith(digits.lower()):
            os.remove(part)
            raise ChecksumError(
                f'{url}: the file has the SHA-256 {checksum}, expected {digits}; it was damaged or '
                "replaced. Nothing is kept; try again, or compare the checksum with the publisher's"
            )


@contextlib.contextmanager
def explained_download(url: str, path: str, alternative: str = WITHOUT_CONFIG) -> Iterator[None]:
    """Name the URL, the place for the file and the way to start without it if a download fails.

    Args:
        url: Address of the file.
        path: Where the file is kept, see :func:`download_path`.
        alternative: How to start without the file.

    Raises:
        OSError: The download has failed.
    """
    before = socket.getdefaulttimeout()
    if before is None:
        socket.setdefaulttimeout(SILENCE_SECONDS)
    try:
        yield
    except ChecksumError:
        raise
    except (OSError, http.client.HTTPException, RuntimeError, ValueError) as error:
        if os.path.exists(path):
            raise  # the file is there: reading it has failed
        raise OSError(
            f'cannot download {url}: {error}; get the file by other means and put it at {path}, or start '
            f'without it: {alternative}'
        ) from error
    finally:
        socket.setdefaulttimeout(before)
