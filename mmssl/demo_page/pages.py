"""The HTML pages and their static files."""

import html
from collections.abc import Mapping
from pathlib import Path
from string import Template

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

STATIC = Path(__file__).parent / 'static'
HEADERS = {
    'content-security-policy': (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    'x-content-type-options': 'nosniff',
    # with no-referrer, browsers would hide the page's own origin from the guard
    'referrer-policy': 'same-origin',
    'cache-control': 'no-cache',
}


def page_route(path: str, name: str, values: Mapping[str, str]) -> Route:
    """Make the route of a page.

    Args:
        path: Its path.
        name: File in the folder ``static``.
        values: Text for the ``$names`` in it.
    """
    template = Template((STATIC / name).read_text(encoding='utf-8'))
    content = template.substitute({key: html.escape(value) for key, value in values.items()})

    async def endpoint(request: Request) -> Response:
        return HTMLResponse(content, headers=HEADERS)

    return Route(path, endpoint, methods=['GET'])


class _StaticFiles(StaticFiles):
    """Static files that browsers ask for again after an update of the package."""

    def file_response(self, *args, **kwargs) -> Response:
        response = super().file_response(*args, **kwargs)
        for name in ('cache-control', 'x-content-type-options'):
            response.headers[name] = HEADERS[name]
        return response


def static_route() -> Mount:
    """Make the route of scripts and styles."""
    return Mount('/static', _StaticFiles(directory=STATIC))
