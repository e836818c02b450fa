"""The HTTP server of the page."""

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

from mmssl.demo_page.access import PasswordGuard
from mmssl.demo_page.guard import AllowedHosts, Limits, RequestGuard, close_silent_connections
from mmssl.demo_page.visitors import all_uploads

FIRST_PORT = 7860
PORTS_TO_TRY = 100
START_SECONDS = 60
# time for requests in progress when the server ends
GRACE_SECONDS = 2
CLOSE_SECONDS = 10
WILDCARDS = ('0.0.0.0', '::')


class PageServer:
    """An application, served from a thread.

    Args:
        app: The application, whose ``state.folder`` has the uploads.
        host: Address to listen on.
        port: Port; the first free one from 7860 on if None.
        auth: ``USER:PASSWORD`` that visitors are asked for; None for no password.
        limits: Limits of what visitors send.

    Attributes:
        url: The address of the page.

    Raises:
        OSError: The port is in use, or the address is not of this machine.
    """

    def __init__(
        self,
        app: Callable,
        host: str = '127.0.0.1',
        port: int | None = None,
        auth: str | None = None,
        limits: Limits | None = None,
    ):
        import uvicorn

        limits = limits or Limits()
        folder: Path = app.state.folder  # type: ignore[attr-defined]
        inner = PasswordGuard(app, auth) if auth else app
        guarded = RequestGuard(inner, AllowedHosts(host), limits, lambda: all_uploads(folder))
        self.socket = _bind(host, port)
        name = 'localhost' if host in WILDCARDS else f'[{host}]' if ':' in host else host
        self.url = f'http://{name}:{self.socket.getsockname()[1]}/'
        config = uvicorn.Config(
            guarded,
            log_level='warning',
            access_log=False,
            http='h11',
            ws='none',
            server_header=False,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
        config.load()
        self.server = uvicorn.Server(config)
        close_silent_connections(self.server, limits.header_seconds, limits.unread_seconds)
        self._ended = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()
        deadline = time.monotonic() + START_SECONDS
        while not self.server.started:
            if self._ended.is_set() or time.monotonic() > deadline:
                raise OSError(f'the server at {self.url} did not start')
            time.sleep(0.01)

    def _run(self) -> None:
        try:
            self.server.run([self.socket])
        finally:
            self._ended.set()

    def wait(self) -> None:
        """Wait until the server ends."""
        # Thread.join() would take a thread that runs for ended after a KeyboardInterrupt (Python 3.11)
        while not self._ended.wait(1):
            pass

    def close(self) -> None:
        """End the server; connections that are open are closed."""
        self.server.should_exit = True
        self._ended.wait(CLOSE_SECONDS)


def _bind(host: str, port: int | None) -> socket.socket:
    """Return a socket that is bound to an address."""
    try:
        family, *_, address = socket.getaddrinfo(host, port or 0, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise OSError(f'--host {host} is no address of this machine ({error})') from error
    ports = [port] if port else range(FIRST_PORT, FIRST_PORT + PORTS_TO_TRY)
    for candidate in ports:
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((address[0], candidate, *address[2:]))
            # another server may be bound to the port without listening yet
            bound.listen()
            return bound
        except OSError as error:
            bound.close()
            reason = error
    if port:
        raise OSError(f'--port {port} cannot be used ({reason.strerror}); name another, or leave it out')
    raise OSError(f'no free port from {FIRST_PORT} on ({reason.strerror}); name one with --port')
