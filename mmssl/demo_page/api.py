"""Requests of the page's scripts: they act on the session of a visitor and are answered with JSON."""

import json
import math
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from mmssl.demo_page.visitors import UnknownVisitorError, Visitors, upload_path

Endpoint = Callable[[Request], Awaitable[Response]]
GONE = 'this visit has ended; reload the page'


class Api:
    """Makes endpoints of functions of a session.

    What a function refuses becomes an answer with status 400 and the reason as text; an unknown visitor, one
    with status 410.

    Args:
        visitors: The sessions.
        folder: Folder of the uploads.
    """

    def __init__(self, visitors: Visitors, folder: Path):
        self.visitors = visitors
        self.folder = folder

    def action(self, path: str, function: Callable[[Any, dict], dict]) -> Route:
        """Make the endpoint of a function that takes the session and a JSON object and returns one."""

        async def endpoint(request: Request) -> Response:
            data = await _json_object(request)
            if data is None:
                return PlainTextResponse('a JSON object is needed', 400)
            return await self._call(request.headers.get('x-visitor', ''), lambda it: function(it, data))

        return Route(path, endpoint, methods=['POST'])

    def upload(self, path: str, function: Callable[[Any, Path, str], dict]) -> Route:
        """Make the endpoint of a function that takes the session, a file and its name, and returns JSON."""

        async def endpoint(request: Request) -> Response:
            from urllib.parse import unquote

            name = unquote(request.headers.get('x-file-name', ''))
            visitor = request.headers.get('x-visitor', '')
            if visitor not in self.visitors:
                return PlainTextResponse(GONE, 410)
            with upload_path(self.folder, name) as file:
                try:
                    with open(file, 'wb') as target:
                        async for chunk in request.stream():
                            target.write(chunk)
                except ClientDisconnect:
                    return PlainTextResponse('incomplete', 400)
                return await self._call(visitor, lambda it: function(it, file, file.name), file)

        return Route(path, endpoint, methods=['POST'])

    def file(self, path: str, function: Callable[[Any], Response]) -> Route:
        """Make the endpoint of a function that takes the session and returns a file."""

        async def endpoint(request: Request) -> Response:
            return await self._call(request.query_params.get('visitor', ''), function)

        return Route(path, endpoint, methods=['GET'])

    def enter(self, path: str, function: Callable[[Any], dict]) -> Route:
        """Make the endpoint that admits a visitor and returns the id with the JSON of a function."""

        async def endpoint(request: Request) -> Response:
            visitor = await run_in_threadpool(self.visitors.enter)
            return await self._call(visitor, lambda it: dict(visitor=visitor, **function(it)))

        return Route(path, endpoint, methods=['POST'])

    def leave(self, path: str) -> Route:
        """Make the endpoint that forgets a visitor, whose id is the body."""

        async def endpoint(request: Request) -> Response:
            visitor = (await request.body()).decode('ascii', 'replace')
            await run_in_threadpool(self.visitors.leave, visitor)
            return Response(status_code=204)

        return Route(path, endpoint, methods=['POST'])

    async def _call(self, visitor: str, function: Callable[[Any], Any], file: Path | None = None) -> Response:
        def call() -> Any:
            with self.visitors.session(visitor) as session:
                return function(session)

        try:
            result = await run_in_threadpool(call)
        except UnknownVisitorError:
            return PlainTextResponse(GONE, 410)
        except (ValueError, OSError, TypeError) as error:
            # the name of a file instead of its path on this machine
            text = str(error).replace(str(file), file.name) if file else str(error)
            return PlainTextResponse(text, 400)
        return result if isinstance(result, Response) else JSONResponse(result)


async def _json_object(request: Request) -> dict | None:
    try:
        data = json.loads(await request.body() or b'{}')
    except ValueError:
        return None
    return data if isinstance(data, dict) else None


def number(data: dict, key: str) -> float:
    """Return a finite number of a JSON object.

    Raises:
        ValueError: It is missing or something else.
    """
    value = data.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f'{key}={value!r:.40}; a number is needed')
    return float(value)


def text(data: dict, key: str) -> str:
    """Return a text of a JSON object.

    Raises:
        ValueError: It is missing or something else.
    """
    value = data.get(key)
    if not isinstance(value, str):
        raise ValueError(f'{key}={value!r:.40}; a text is needed')
    return value


def download(content: bytes, name: str, media_type: str) -> Response:
    """Return a file to save under a name."""
    from urllib.parse import quote

    disposition = f"attachment; filename*=UTF-8''{quote(name)}"
    return Response(content, media_type=media_type, headers={'content-disposition': disposition})


def picture(jpeg: bytes) -> Response:
    """Return an image; its address changes with it, so that browsers may keep it."""
    return Response(jpeg, media_type='image/jpeg', headers={'cache-control': 'private, max-age=600'})
