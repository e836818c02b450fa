"""A browser, and visits of pages in it."""

import pytest
from page_process import CHROMIUM

WAIT = 120_000
DESKTOP = dict(width=1280, height=900)


@pytest.fixture(scope='session')
def browser():
    """Chromium; there is no test without it."""
    playwright = pytest.importorskip('playwright.sync_api', reason='driving a browser needs playwright')
    with playwright.sync_playwright() as starter:
        browser = starter.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    """Open a page as another visitor; requests to other machines and errors of scripts fail the test."""
    contexts, outside, errors = [], [], []

    def visit(url, **options):
        context = browser.new_context(**dict(dict(viewport=DESKTOP), **options))
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT)
        origin = '/'.join(url.split('/')[:3])
        own = (f'{origin}/', 'data:')
        page.on('request', lambda it: None if it.url.startswith(own) else outside.append(it.url))
        page.on('pageerror', lambda error: errors.append(str(error)))
        page.on('console', lambda it: errors.append(it.text) if 'Security Policy' in it.text else None)
        page.goto(url)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert not outside and not errors
