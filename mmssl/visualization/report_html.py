"""The HTML parts of a report: style sheet, page, sections, tables, embedded images."""

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from PIL import Image

IMAGE_SIZE = 900  # of the shorter side, in pixels
# no script runs and nothing is loaded, even if text of a file were not escaped
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = """
:root { --paper: #fff; --card: #f6f7f9; --ink: #1c2128; --faint: #68707c; --line: #dfe3e8; --add: #1a7f37;
  --gone: #c93c37;
  --other: #9a6700; --c0: #3b6fd4; --c1: #e07b00; --c2: #d64550; --c3: #1f9e89; --c4: #7c4dbd; --c5:
  #c2408f; --c6: #6b8e23;
  --c7: #0d8ca8; }
@media (prefers-color-scheme: dark) { :root { --paper: #12151a; --card: #1b2027; --ink: #e6e9ee; --faint:
  #949daa; --line: #323a45;
  --add: #57c274; --gone: #ff7b72; --other: #d9a520; --c0: #76a5ff; --c1: #ffab4a; --c2: #ff7d87; --c3:
  #4fd0b8; --c4: #b796f0;
  --c5: #f085c4; --c6: #a9c95c; --c7: #58c6de; } }
* { box-sizing: border-box; }
html { color-scheme: light dark; }
body { margin: 0 auto; padding: 28px 24px 60px; max-width: 1180px; background: var(--paper); color:
  var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { margin: 0; font-size: 25px; line-height: 1.25; overflow-wrap: anywhere; }
h2 { margin: 40px 0 12px; font-size: 18px; }
h3 { margin: 0 0 6px; font-size: 14px; font-weight: 600; overflow-wrap: anywhere; }
p { margin: 4px 0; }
.faint { color: var(--faint); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(135px, 1fr)); gap: 10px; margin-top:
  20px; }
.tile, .card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 10px
  14px; min-width: 0; }
.tile b { display: block; font-size: 20px; line-height: 1.35; font-variant-numeric: tabular-nums;
  overflow-wrap: anywhere; }
.tile span { font-size: 13px; color: var(--faint); overflow-wrap: anywhere; }
.bad { border-color: var(--gone); }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 14px;
  }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--faint); font-size: 13px; font-variant-numeric: tabular-nums; }
svg .grid { stroke: var(--line); stroke-width: 1; }
svg path { fill: none; stroke-width: 2; stroke-linejoin: round; stroke: currentColor; }
svg path.raw { stroke-width: 1; opacity: .28; }
svg circle { fill: currentColor; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 14px; font-size: 13px; }
.legend i { display: inline-block; width: 12px; height: 3px; margin-right: 6px; vertical-align: middle;
  background: currentColor; }
.legend em { font-style: normal; color: var(--ink); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 14px 5px 0; text-align: right; border-bottom: 1px solid var(--line); white-space:
  nowrap; }
th { font-weight: 600; color: var(--faint); font-size: 13px; }
th:first-child, td:first-child { text-align: left; white-space: normal; overflow-wrap: anywhere; min-width:
  7.5em; }
td.text { text-align: left; white-space: normal; overflow-wrap: anywhere; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 260px), 1fr)); gap:
  14px; }
figure { margin: 0; } figure.wide { grid-column: 1 / -1; }
img { display: block; max-width: 100%; height: auto; border-radius: 6px; border: 1px solid var(--line); }
figcaption { font-size: 12px; color: var(--faint); overflow-wrap: anywhere; margin-top: 3px; }
details { margin-top: 12px; } summary { cursor: pointer; font-weight: 600; }
pre { margin: 8px 0 0; padding: 12px 14px; background: var(--card); border: 1px solid var(--line);
  border-radius: 8px; overflow-x: auto;
  font: 12.5px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
.add { color: var(--add); } .gone { color: var(--gone); } .other { color: var(--other); }

.c0 { color: var(--c0); } .c1 { color: var(--c1); } .c2 { color: var(--c2); }
.c3 { color: var(--c3); } .c4 { color: var(--c4); } .c5 { color: var(--c5); }
.c6 { color: var(--c6); } .c7 { color: var(--c7); }
@media (max-width: 520px) { body { padding: 18px 14px 40px; } h1 { font-size: 20px; } .tile b { font-size:
  17px; }
  svg text { font-size: 17px; } th, td { padding-right: 10px; } }
"""


def page(title: str, parts: Sequence[str]) -> str:
    """Return an HTML page.

    Args:
        title: Title of the page, to be escaped.
        parts: HTML of its parts; empty ones are left out.
    """
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f'<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n'
        + '\n'.join(part for part in parts if part)
        + '\n</body>\n</html>\n'
    )


def section(title: str, content: str) -> str:
    """Return content below a heading; '' if there is no content."""
    return f'<h2>{escape(title)}</h2>\n{content}' if content else ''


def table(header: Sequence[str], rows: Sequence[Sequence[str]], text_columns: Sequence[int] = ()) -> str:
    """Return a table whose cells are escaped.

    Args:
        header: Titles of the columns.
        rows: Texts of the cells.
        text_columns: Indices of columns that are aligned left.
    """
    titles = []
    for index, title in enumerate(header):
        style = ' style=text-align:left' if index in text_columns else ''
        titles.append(f'<th{style}>{escape(title)}</th>')
    lines = [''.join(titles)]
    for row in rows:
        columns = []
        for index, text in enumerate(row):
            css_class = ' class=text' if index in text_columns else ''
            columns.append(f'<td{css_class}>{escape(text)}</td>')
        lines.append(''.join(columns))
    body = ''.join(f'<tr>{line}</tr>' for line in lines)
    return f'<div class="scroll"><table>{body}</table></div>'


class EmbeddedImage(NamedTuple):
    """An image as part of a page.

    Attributes:
        address: ``data:`` address with the encoded image.
        aspect_ratio: Width over height.
    """

    address: str
    aspect_ratio: float


def embedded_image(path: Path) -> EmbeddedImage | None:
    """Encode an image file, reduced if it is large, as PNG or JPEG; return None if it cannot be read."""
    try:
        with Image.open(path) as file:
            file.load()
            image = file.convert('RGB')
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    aspect_ratio = image.width / image.height
    image.thumbnail((IMAGE_SIZE * max(1, min(aspect_ratio, 2)), IMAGE_SIZE), Image.Resampling.LANCZOS)
    png, jpeg = _encoded(image, 'png', optimize=True), _encoded(image, 'jpeg', quality=86)
    encoding, data = ('png', png) if len(png) < 1.2 * len(jpeg) else ('jpeg', jpeg)
    return EmbeddedImage(f'data:image/{encoding};base64,{base64.b64encode(data).decode()}', aspect_ratio)


def _encoded(image: Image.Image, encoding: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, encoding, **options)
    return buffer.getvalue()
