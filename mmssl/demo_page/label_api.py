"""Requests of the labelling page."""

from collections.abc import Callable
from typing import Any

from starlette.routing import Route

from mmssl.demo_page.api import Api, number, picture, text
from mmssl.demo_page.label_session import LabelSession
from mmssl.demo_page.label_state import describe_labelling
from mmssl.demo_page.segment_api import click, draw_box


def label_routes(api: Api) -> list[Route]:
    """Return the routes of all endpoints."""
    changes: dict[str, Callable[[LabelSession, dict], Any]] = {
        'click': _prompt(click),
        'box': _prompt(draw_box),
        'choose': _prompt(lambda session, data: session.choose(int(number(data, 'index')))),
        'clear': _prompt(lambda session, data: session.clear_all()),
        'undo': lambda visit, data: visit.undo(),
        'accept': lambda visit, data: visit.accept(text(data, 'class')),
        'accept-suggestion': lambda visit, data: visit.accept_suggestion(text(data, 'key')),
        'accept-all': lambda visit, data: visit.accept_all(),
        'discard-suggestion': lambda visit, data: visit.discard_suggestion(text(data, 'key')),
        'remove': lambda visit, data: visit.remove(int(number(data, 'id'))),
        'rename': lambda visit, data: visit.rename(int(number(data, 'id')), text(data, 'class')),
        'finish': lambda visit, data: visit.finish(),
        'skip': lambda visit, data: visit.skip(),
        'back': lambda visit, data: visit.go_back(),
        'next': lambda visit, data: visit.go_on(),
    }
    return [
        *(api.action(f'/api/label/{name}', _then_describe(change)) for name, change in changes.items()),
        api.action('/api/label/alive', alive),
        api.enter('/api/label/visit', enter),
        api.file('/api/label/picture', lambda visit: picture(visit.session.jpeg)),
    ]


def enter(visit: LabelSession) -> dict:
    """Open the first image of a new visitor."""
    visit.go_on()
    return dict(state=describe_labelling(visit))


def alive(visit: LabelSession, data: dict) -> dict:
    """Renew the lease of an image whose page is open."""
    if visit.name is not None:
        visit.require()
    return {}


def _prompt(act: Callable[[Any, dict], Any]) -> Callable[[LabelSession, dict], None]:
    def change(visit: LabelSession, data: dict) -> None:
        visit.require()
        act(visit.session, data)
        visit.note = visit.session.note

    return change


def _then_describe(change: Callable[[LabelSession, dict], Any]) -> Callable[[LabelSession, dict], dict]:
    def function(visit: LabelSession, data: dict) -> dict:
        change(visit, data)
        return describe_labelling(visit)

    return function
