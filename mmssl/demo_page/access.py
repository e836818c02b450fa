"""A name and a password for the page: HTTP basic authentication (RFC 7617)."""

import asyncio
import base64
import binascii
import hmac
from collections.abc import Callable

# how long a wrong password is answered with nothing, so that trying many takes long
WRONG_SECONDS = 1.0


class PasswordGuard:
    """ASGI middleware that asks for a name and a password.

    Args:
        app: The application behind it.
        credentials: ``USER:PASSWORD``.
        wrong_seconds: Delay of the answer to a wrong password.
    """

    def __init__(self, app: Callable, credentials: str, wrong_seconds: float = WRONG_SECONDS):
        self.app = app
        self.credentials = credentials.encode()
        self.wrong_seconds = wrong_seconds

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        """Pass the request on if it carries the password, and ask for it otherwise."""
        if scope['type'] != 'http':
            await self.app(scope, receive, send)
            return
        sent = dict(scope['headers']).get(b'authorization')
        if sent is not None and hmac.compare_digest(_decoded(sent), self.credentials):
            await self.app(scope, receive, send)
            return
        if sent is not None:
            await asyncio.sleep(self.wrong_seconds)
        headers = [
            (b'content-type', b'text/plain; charset=utf-8'),
            (b'www-authenticate', b'Basic realm="mmssl demo", charset="UTF-8"'),
        ]
        await send({'type': 'http.response.start', 'status': 401, 'headers': headers})
        await send({'type': 'http.response.body', 'body': b'name and password, please'})


def _decoded(header: bytes) -> bytes:
    """Return ``USER:PASSWORD`` of an ``Authorization`` header; b'' if it holds none."""
    scheme, _, value = header.partition(b' ')
    if scheme.lower() != b'basic':
        return b''
    try:
        return base64.b64decode(value.strip(), validate=True)
    except (binascii.Error, ValueError):
        return b''
