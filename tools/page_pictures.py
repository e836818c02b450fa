"""Pictures of the pages of ``mmssl demo`` for the documentation, taken in Chromium.

python tools/page_pictures.py [--out docs/images] [-- --model KIND --checkpoint FILE]

starts the page with the arguments after ``--`` (the small model of the package without any), takes its
first view at 1280 and 390 pixels, light and dark, then the labelling page with a labelled object of a
photograph of scikit-learn, and writes PNG files with a palette, so that they are small.
"""

import argparse
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from mmssl.demo_page.samples import write_samples

SIZES = {'': (1280, 800), '_phone': (390, 844)}
SCHEMES = {'': 'light', '_dark': 'dark'}
COLORS = 256
# photographs of the labelling page; on the first one boxes (left, top, right, bottom) as fractions of the
# image, and the keys of their classes
PHOTOS = ('flower', 'coffee', 'rocket')
CLASSES = 'flower,cup,rocket'
LABELS = (((0.26, 0.20, 0.71, 0.86), '1'),)
LAST_BOX = (0.45, 0.87, 0.75, 0.998)


def start_page(arguments: list[str]) -> tuple[subprocess.Popen, str]:
    """Start the page and return the process and the URL."""
    command = [sys.executable, '-m', 'mmssl.cli', 'demo', '--no-browser', *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if match := re.match(r'(http://\S+)', line):
            return process, match[1]
    raise SystemExit(f'mmssl demo {" ".join(arguments)} has ended')


def stop_page(process: subprocess.Popen) -> None:
    """End the page as Ctrl-C does."""
    process.send_signal(signal.SIGINT)
    process.wait(30)


def save(png: bytes, path: Path) -> None:
    """Write a screenshot with a palette."""
    picture = Image.open(io.BytesIO(png)).convert('RGB')
    picture.quantize(COLORS, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f'{path}: {picture.width}x{picture.height}, {path.stat().st_size // 1024} KB')


def open_page(browser, url: str, size: tuple[int, int], scheme: str):
    """Open a page and wait for its image."""
    context = browser.new_context(viewport=dict(width=size[0], height=size[1]), color_scheme=scheme)
    page = context.new_page()
    page.goto(url)
    page.wait_for_selector('#picture image[href]', state='attached', timeout=120_000)
    page.wait_for_load_state('networkidle')
    return page


def draw_box(page, box: tuple[float, float, float, float]) -> None:
    """Draw a box (left, top, right, bottom), as fractions of the image, and wait for its mask."""
    left, top, right, bottom = page.evaluate(
        """(box) => {
            const svg = document.getElementById('picture');
            const [, , width, height] = svg.getAttribute('viewBox').split(' ').map(Number);
            return [[box[0], box[1]], [box[2], box[3]]].flatMap(([x, y]) => {
                const corner = new DOMPoint(x * width, y * height).matrixTransform(svg.getScreenCTM());
                return [corner.x, corner.y];
            });
        }""",
        box,
    )
    page.mouse.move(left, top)
    page.mouse.down()
    page.mouse.move(right, bottom, steps=3)
    page.mouse.up()
    page.wait_for_selector('#masks input', state='attached')


def first_views(browser, arguments: list[str], out: Path) -> None:
    """Take the first view in all sizes and colors."""
    process, url = start_page(arguments)
    try:
        for size_name, size in SIZES.items():
            for scheme_name, scheme in SCHEMES.items():
                page = open_page(browser, url, size, scheme)
                page.wait_for_selector('#picture image.mask')
                save(page.screenshot(), out / f'demo_page{size_name}{scheme_name}.png')
                page.context.close()
    finally:
        stop_page(process)


def labelling(browser, arguments: list[str], out: Path) -> None:
    """Take the labelling page with an object and a mask that is not accepted yet."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        samples = write_samples(folder / 'photos')
        (folder / 'order.txt').write_text(''.join(f'{samples[photo]}\n' for photo in PHOTOS))
        options = ['--data', str(folder / 'photos'), '--order', str(folder / 'order.txt')]
        options += ['--out', str(folder / 'labels'), '--classes', CLASSES]
        process, url = start_page([*arguments, *options])
        try:
            page = open_page(browser, url, SIZES[''], 'light')
            page.evaluate("document.querySelector('.top code').textContent = 'labels'")
            page.locator('#modes label').last.click()
            for box, key in LABELS:
                draw_box(page, box)
                page.keyboard.press(key)
                page.keyboard.press('Enter')
                page.wait_for_selector('#masks:not(:has(input))')
            draw_box(page, LAST_BOX)
            save(page.screenshot(), out / 'demo_page_label.png')
            page.context.close()
        finally:
            stop_page(process)


def main() -> None:
    """Take all pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', type=Path, default=Path('docs/images'))
    parser.add_argument('page', nargs='*', help='arguments of mmssl demo, after --')
    args = parser.parse_args()
    from playwright.sync_api import sync_playwright

    os.environ['no_proxy'] = '127.0.0.1'
    with sync_playwright() as starter:
        browser = starter.chromium.launch(executable_path=shutil.which('chromium'), args=['--no-sandbox'])
        first_views(browser, args.page, args.out)
        labelling(browser, args.page, args.out)
        browser.close()


if __name__ == '__main__':
    main()
