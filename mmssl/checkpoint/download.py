"""What to do about a download of weights that fails."""

import contextlib
import http.client
import os
import socket
from collections.abc import Iterator

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
    except (OSError, http.client.HTTPException, RuntimeError, ValueError) as error:
        if os.path.exists(path):
            raise  # the file is there: reading it has failed
        raise OSError(
            f'cannot download {url}: {error}; get the file by other means and put it at {path}, or start '
            f'without it: {alternative}'
        ) from error
    finally:
        socket.setdefaulttimeout(before)
