"""Reading XML files of labels: errors name the file and the element."""

from xml.etree import ElementTree

from mmssl.errors import LabelError

Element = ElementTree.Element


def read_xml(path: str) -> Element:
    """Return the root element of an XML file.

    Raises:
        LabelError: The file is not XML.
    """
    try:
        return ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise LabelError(f'not XML: {error}; the file may be truncated', path) from None


def root_tag(path: str) -> str:
    """Return the name of the root element of an XML file, '' if it is not XML; the rest is not read."""
    try:
        for _, element in ElementTree.iterparse(path, events=('start',)):
            return element.tag
    except (ElementTree.ParseError, ValueError, LookupError):
        pass
    return ''


def number_of(element: Element, name: str, path: str) -> float:
    """Return the number in a child element.

    Raises:
        LabelError: There is no such child, or it holds no number.
    """
    text = element.findtext(name)
    try:
        return float(text)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise LabelError(f'<{name}> of <{element.tag}> is {text!r}, not a number', path) from None


def attribute_number(element: Element, name: str, path: str) -> float:
    """Return the number in an attribute; errors are those of :func:`number_of`."""
    text = element.get(name)
    try:
        return float(text)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise LabelError(f'{name}={text!r} of <{element.tag}> is not a number', path) from None
