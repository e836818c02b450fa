"""The labelling page: ``mmssl demo --data DIR --out LABELS``."""

from starlette.applications import Starlette

from mmssl.demo_page.api import Api
from mmssl.demo_page.app import PageSettings, make_app
from mmssl.demo_page.label_api import label_routes
from mmssl.demo_page.label_desk import LabelDesk
from mmssl.demo_page.label_session import LabelSession
from mmssl.demo_page.model_words import model_line, small_note
from mmssl.demo_page.pages import page_route, static_route
from mmssl.demo_page.session import Busy
from mmssl.demo_page.visitors import Visitors


def build_labelling(settings: PageSettings, desk: LabelDesk) -> Starlette:
    """Build the page, to be served by :class:`mmssl.demo_page.server.PageServer`.

    Args:
        settings: The model.
        desk: The images and their labels.
    """
    busy = Busy()

    def start(visitor: str) -> LabelSession:
        return LabelSession(visitor, desk, settings.start_session(busy), settings.max_pixels)

    visitors = Visitors(start, desk.leases.release)
    api = Api(visitors, settings.folder)
    notice = small_note(settings.model)
    values = dict(
        model=model_line(settings.model, settings.model_name),
        notice=notice,
        notice_hidden='' if notice else 'hidden',
        out=str(desk.store.folder),
    )
    routes = [static_route(), page_route('/', 'label.html', values), api.leave('/api/leave')]
    return make_app([*routes, *label_routes(api)], visitors, settings.folder)
