"""What a person does on the pages."""


def status(page, text):
    """Return the line below the image, once it holds a text."""
    page.wait_for_function('text => document.getElementById("status").textContent.includes(text)', arg=text)
    return page.inner_text('#status')


def click(page, x, y, button='left'):
    """Click at these fractions of the image."""
    at = page.evaluate(
        """([x, y]) => {
            const svg = document.getElementById('picture');
            const [left, top, width, height] = svg.getAttribute('viewBox').split(' ').map(Number);
            const place = new DOMPoint(left + x * width, top + y * height);
            const shown = place.matrixTransform(svg.getScreenCTM());
            return [shown.x, shown.y];
        }""",
        [x, y],
    )
    page.mouse.click(*at, button=button)


def drag(page, start, end):
    """Drag between two points, as fractions of the image."""
    box = page.evaluate(
        """() => {
            const svg = document.getElementById('picture');
            const [left, top, width, height] = svg.getAttribute('viewBox').split(' ').map(Number);
            const corners = [[left, top], [left + width, top + height]].map(
                ([x, y]) => new DOMPoint(x, y).matrixTransform(svg.getScreenCTM()));
            return corners.flatMap((corner) => [corner.x, corner.y]);
        }"""
    )
    left, top, right, bottom = box
    places = [(left + x * (right - left), top + y * (bottom - top)) for x, y in (start, end)]
    page.mouse.move(*places[0])
    page.mouse.down()
    page.mouse.move(*places[1], steps=4)
    page.mouse.up()
