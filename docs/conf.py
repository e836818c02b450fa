"""Configuration of the site (``make docs``): pages in MyST Markdown, and the API from docstrings."""

import ast
import os
import re
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT))

from mmssl import __version__  # noqa: E402

project = 'mmssl'
author = 'The mmssl authors'
copyright = 'The mmssl authors, Apache 2.0'
release = version = __version__

# the signatures that Sphinx reads again from the source are those of the toolboxes as they are
os.environ['MMSSL_NO_PATCH'] = '1'

extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon']
exclude_patterns = ['_build']
myst_enable_extensions = ['colon_fence', 'deflist']
myst_heading_anchors = 4
# a page may begin below the first level where it is part of another, and mixes languages in its blocks
suppress_warnings = ['misc.highlighting_failure']

autodoc_default_options = {'members': True, 'member-order': 'bysource', 'show-inheritance': True}
autodoc_typehints = 'signature'
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True

html_theme = 'furo'
html_title = f'mmssl {__version__}'
html_static_path = ['_static']
html_css_files = ['wide.css']
html_show_sphinx = False
pygments_style = 'friendly'
pygments_dark_style = 'monokai'

# pages whose text is a file elsewhere in the repository: page -> file
ELSEWHERE = {
    'changelog': 'CHANGELOG.md',
    'code-of-conduct': 'CODE_OF_CONDUCT.md',
    'contributing': 'CONTRIBUTING.md',
    'security': 'SECURITY.md',
    'weights': 'mmssl/weights/README.md',
    'zh-CN': 'README_zh-CN.md',
}
ELSEWHERE.update(
    {
        f'configs/{path.parent.name}': path.relative_to(ROOT).as_posix()
        for path in ROOT.glob('configs/*/README.md')
    }
)
PAGE_OF = {path: page for page, path in ELSEWHERE.items()} | {'README.md': 'index'}
# modules without a page: programs, and what only they use
LEFT_OUT = {
    'mmssl.cli',
    # the module names of segment_anything, which hand on what other modules define
    'mmssl.promptable.automatic_mask_generator',
    'mmssl.promptable.build_sam',
}
LINK = re.compile(r'(\]\()([^)#\s:]+)(#[^)\s]*)?(\))')


def api_page(package: str) -> str:
    """Return the page of a package: the docstrings of all its modules."""
    folder = ROOT / 'mmssl' / package if package != 'package' else ROOT / 'mmssl'
    name = f'mmssl.{package}' if package != 'package' else 'mmssl'
    lines = [
        f'# {name}',
        '',
        (ast.get_docstring(ast.parse((folder / '__init__.py').read_text(encoding='utf-8'))) or '').strip(),
        '',
    ]
    for path in sorted(folder.glob('*.py')):
        if path.stem != '__init__' and f'{name}.{path.stem}' not in LEFT_OUT:
            lines += [
                f'## {path.stem}',
                '',
                '```{eval-rst}',
                f'.. automodule:: {name}.{path.stem}',
                '```',
                '',
            ]
    return '\n'.join(lines)


def read_page(app, page: str, source: list[str]) -> None:
    """Replace the text of a page: the generated API, files elsewhere, and links between files."""
    if page.startswith('api/') and page != 'api/index':
        source[0] = api_page(page.removeprefix('api/'))
        return
    origin = ROOT / ELSEWHERE[page] if page in ELSEWHERE else DOCS / f'{page}.md'
    text = origin.read_text(encoding='utf-8') if page in ELSEWHERE else source[0]

    def link(match: re.Match) -> str:
        before, target, anchor, after = match.groups(default='')
        path = (origin.parent / target).resolve()
        if not path.is_relative_to(ROOT) or not path.exists():
            return match.group()
        name = path.relative_to(ROOT).as_posix()
        if name in PAGE_OF:
            target = f'/{PAGE_OF[name]}.md'
        elif path.is_relative_to(DOCS) and path.is_file():
            target = f'/{path.relative_to(DOCS).as_posix()}'
        elif path.is_dir():
            return match.group()
        else:
            target = os.path.relpath(path, (DOCS / page).parent)
        return f'{before}{target}{anchor}{after}'

    source[0] = LINK.sub(link, text)


def plain_signs(app, what, name, obj, options, lines) -> None:
    """Escape stars before a word and bars, which are not meant as markup: ``*args``, |x|."""
    for index, line in enumerate(lines):
        parts = re.split(r'(``.*?``)', line)
        parts[::2] = [
            re.sub(
                r'(?<![`\w*\\])(\*{1,2})(?=\w+\b(?!\*))|(?<!\\)\|',
                lambda sign: re.sub(r'(.)', r'\\\1', sign.group()),
                part,
            )
            for part in parts[::2]
        ]
        lines[index] = ''.join(parts)


def one_attribute_a_line(app, what, name, obj, options, lines) -> None:
    """Split ``a, b: text`` among attributes into two entries, as napoleon does for arguments."""
    inside, out = False, []
    for line in lines:
        if re.fullmatch(r'\w+:', line):
            inside = line == 'Attributes:'
        several = inside and re.match(r'( {4})(\w+(?:, \w+)+): (.*)', line)
        out += [f'{several[1]}{each}: {several[3]}' for each in several[2].split(', ')] if several else [line]
    lines[:] = out


def setup(app):
    """Connect the functions above; those that run before napoleon have a lower priority number."""
    app.connect('source-read', read_page)
    app.connect('autodoc-process-docstring', one_attribute_a_line, priority=400)
    app.connect('autodoc-process-docstring', plain_signs)
