"""Checks of the requests to the page: who may ask, how much may be sent, and how slowly."""

import asyncio
import contextlib
import ipaddress
import os
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

LOCAL_NAMES = ('localhost', '127.0.0.1', '::1')
# what a form adds to the file that it sends
_FORM_BYTES = 1 << 16
_JSON_BYTES = 1 << 20
# of the body of a refused request
_DISCARDED_BYTES = 1 << 18
_DISCARD_SECONDS = 1.0


@dataclass
class Limits:
    """Limits of what visitors send.

    Attributes:
        file_bytes: Largest file.
        total_bytes: Size of all uploads that are kept, of all visitors.
        files: Number of uploads that are kept.
        uploads_at_once: Number of uploads that are received at the same time.
        body_seconds: Longest time that the body of a request may take.
        header_seconds: Longest time from a connection, or from a response, to the end of the next header.
        unread_seconds: Longest time in which a client takes nothing of what is sent to it.
    """

    file_bytes: int = 32 << 20
    total_bytes: int = 512 << 20
    files: int = 200
    uploads_at_once: int = 4
    body_seconds: float = 120
    header_seconds: float = 20
    unread_seconds: float = 120


@dataclass
class AllowedHosts:
    """The names under which the page may be asked for.

    A foreign site whose name has been made to lead to this machine (DNS rebinding) sends its own name.

    Attributes:
        address: The address that the page listens on.
        names: Further names.
    """

    address: str = '127.0.0.1'
    names: Iterable[str] = field(default_factory=lambda: (socket.gethostname(), socket.getfqdn()))

    def __contains__(self, host: str) -> bool:
        name = host_name(host)
        if name in LOCAL_NAMES or name == self.address.lower():
            return True
        if is_loopback(self.address):
            return False
        return _ip(name) is not None or name in {known.lower() for known in self.names}


def is_loopback(address: str) -> bool:
    """Return True for an address that only this machine reaches."""
    ip = _ip(address)
    return address == 'localhost' or (ip is not None and ip.is_loopback)


def host_name(host: str) -> str:
    """Return the lower-case name of a ``Host`` header, without its port and the brackets of IPv6."""
    name = host.strip().lower()
    if name.startswith('['):
        return name[1:].partition(']')[0]
    return name.partition(':')[0]


def _ip(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


class RefusedError(Exception):
    """A request is refused, with an HTTP status and a reason."""

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status = status
        self.reason = reason


class RequestGuard:
    """ASGI middleware that refuses requests with a reason in plain text.

    Args:
        app: The application behind it.
        hosts: Names under which the page may be asked for.
        limits: Limits of what visitors send.
        uploads: Returns the paths of all uploads so far; those that no longer exist do not count.
    """

    def __init__(
        self,
        app: Callable,
        hosts: AllowedHosts,
        limits: Limits,
        uploads: Callable[[], Iterable[str]] = tuple,
    ):
        self.app = app
        self.hosts = hosts
        self.limits = limits
        self.uploads = uploads
        self._receiving = 0

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        """Pass the request on, or refuse it."""
        if scope['type'] not in ('http', 'websocket'):
            await self.app(scope, receive, send)
            return
        started, client_receive = False, receive

        async def watched_send(message: dict) -> None:
            nonlocal started
            started = True
            await send(message)

        uploading = False
        try:
            headers = {name.decode('latin-1'): value.decode('latin-1') for name, value in scope['headers']}
            self._check_sender(headers)
            if scope['type'] == 'http' and _is_upload(scope):
                self._check_room()
                self._receiving += 1
                uploading = True
            if scope['type'] == 'http':
                receive = self._limited(receive, headers, uploading)
            await self.app(scope, receive, watched_send)
        except RefusedError as refused:
            if started:
                raise
            if scope['type'] == 'http':
                await _discard_body(client_receive)
            await _refuse(scope['type'], send, refused)
        finally:
            self._receiving -= uploading

    def _check_sender(self, headers: dict[str, str]) -> None:
        host = headers.get('host', '')
        if host not in self.hosts:
            raise RefusedError(
                403, f'Host {host!r} is not this page; open it by the address that mmssl demo printed'
            )
        origin = headers.get('origin')
        # browsers send the page that makes the request; only this one may
        if origin is not None and origin.partition('://')[2].lower() != host.lower():
            raise RefusedError(
                403, f'requests from {origin!r} are refused; only the page itself may send them'
            )

    def _check_room(self) -> None:
        if self._receiving >= self.limits.uploads_at_once:
            raise RefusedError(429, f'{self._receiving} uploads are being received; try again in a moment')
        sizes = [os.path.getsize(path) for path in list(self.uploads()) if os.path.exists(path)]
        if len(sizes) >= self.limits.files or sum(sizes) >= self.limits.total_bytes:
            raise RefusedError(
                507,
                f'the page keeps {len(sizes)} uploads ({sum(sizes) >> 20} MB), as many as it may; try later',
            )

    def _limited(self, receive: Callable, headers: dict[str, str], uploading: bool) -> Callable:
        """Return ``receive`` with limits of size and time for the body."""
        limit = self.limits.file_bytes + _FORM_BYTES if uploading else _JSON_BYTES
        length = headers.get('content-length', '0')
        too_large = RefusedError(413, f'the request is larger than {limit} bytes')
        if not length.isdigit() or int(length) > limit:
            raise too_large
        deadline = asyncio.get_running_loop().time() + self.limits.body_seconds
        received, complete = 0, False

        async def limited() -> Any:
            nonlocal received, complete
            if complete:  # what follows is the end of the connection
                return await receive()
            left = deadline - asyncio.get_running_loop().time()
            try:
                message = await asyncio.wait_for(receive(), max(left, 0.001))
            except asyncio.TimeoutError:
                raise RefusedError(
                    408, f'the request took more than {self.limits.body_seconds:g} s'
                ) from None
            received += len(message.get('body', b''))
            complete = not message.get('more_body', False)
            if received > limit:
                raise too_large
            return message

        return limited


def _is_upload(scope: dict) -> bool:
    return scope['method'] == 'POST' and scope['path'].rstrip('/').endswith('/upload')


async def _discard_body(receive: Callable) -> None:
    """Read a small body that nobody wants: a connection that is closed over unread bytes loses its answer."""

    async def read() -> None:
        size, more = 0, True
        while more and size < _DISCARDED_BYTES:
            message = await receive()
            size += len(message.get('body', b''))
            more = message.get('more_body', False)

    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(read(), _DISCARD_SECONDS)


async def _refuse(protocol: str, send: Callable, refused: RefusedError) -> None:
    if protocol == 'websocket':
        await send({'type': 'websocket.close', 'code': 1008})
        return
    headers = [(b'content-type', b'text/plain; charset=utf-8'), (b'connection', b'close')]
    await send({'type': 'http.response.start', 'status': refused.status, 'headers': headers})
    await send({'type': 'http.response.body', 'body': refused.reason.encode()})


def close_silent_connections(server: Any, header_seconds: float, unread_seconds: float) -> None:
    """Have a server close connections whose client is silent, for which uvicorn itself waits without end.

    Args:
        server: A ``uvicorn.Server``.
        header_seconds: Time for the header of the first request, and for that of each further one after the
            response to the one before.
        unread_seconds: Time in which a client has to take what is sent to it.
    """
    make_protocol = server.config.http_protocol_class

    def make_watched_protocol(*args: Any, **kwargs: Any) -> Any:
        protocol = make_protocol(*args, **kwargs)
        _Watch(protocol, header_seconds, unread_seconds)
        return protocol

    server.config.http_protocol_class = make_watched_protocol


class _Watch:
    """Timers of a connection, started and stopped by the calls of its protocol.

    Args:
        protocol: A protocol of uvicorn, whose ``cycle`` is the request of which the header came last.
        header_seconds: As for :func:`close_silent_connections`.
        unread_seconds: As for :func:`close_silent_connections`.
    """

    def __init__(self, protocol: Any, header_seconds: float, unread_seconds: float):
        self.protocol = protocol
        self.header_seconds = header_seconds
        self.unread_seconds = unread_seconds
        self.unread_timer: asyncio.TimerHandle | None = None
        for name, after in (
            ('connection_made', self.expect_header),
            ('on_response_complete', self.expect_header),
            ('pause_writing', self.expect_reading),
            ('resume_writing', self.cancel_reading),
            ('connection_lost', self.cancel_reading),
        ):
            setattr(protocol, name, _followed_by(getattr(protocol, name), after))

    def expect_header(self) -> None:
        cycle = getattr(self.protocol, 'cycle', None)
        self.protocol.loop.call_later(self.header_seconds, self.close_without_header, cycle)

    def close_without_header(self, cycle: Any) -> None:
        transport = self.protocol.transport
        waiting = self.protocol.cycle is cycle and getattr(cycle, 'response_complete', True)
        # a websocket has a protocol of its own
        if waiting and transport.get_protocol() is self.protocol and not transport.is_closing():
            transport.close()

    def expect_reading(self) -> None:
        self.cancel_reading()
        self.unread_timer = self.protocol.loop.call_later(
            self.unread_seconds, lambda: self.protocol.transport.abort()
        )

    def cancel_reading(self) -> None:
        if self.unread_timer is not None:
            self.unread_timer.cancel()
            self.unread_timer = None


def _followed_by(function: Callable, after: Callable[[], None]) -> Callable:
    def both(*args: Any) -> None:
        function(*args)
        after()

    return both
