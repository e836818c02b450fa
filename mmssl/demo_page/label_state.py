"""The state of a labelling session as the page shows it."""

from typing import Any

from mmssl.data.colors import class_color
from mmssl.demo_page.label_session import LabelSession
from mmssl.demo_page.overlay import overlay_png
from mmssl.demo_page.session_state import data_url, describe

# what can be chosen by a key
MAX_KEYS = 9


def describe_labelling(visit: LabelSession) -> dict[str, Any]:
    """Return what the page shows, as values of JSON.

    Returns:
        What :func:`mmssl.demo_page.session_state.describe` returns, and:
        overlays: The labels and the mask of the prompts, as data URLs.
        classes: name and color of each class.
        objects: id, class and color of each label of the image.
        suggestions: key, class and score of each suggested mask.
        finished: Whether the image was finished before.
        progress: See :meth:`mmssl.demo_page.label_desk.LabelDesk.progress`.
    """
    store = visit.desk.store
    classes = store.classes
    colors = {name: class_color(index) for index, name in enumerate(classes)}
    state = dict(
        classes=[dict(name=name, color=_css(colors[name])) for name in classes],
        progress=visit.desk.progress(visit.visitor),
        note=visit.note,
        image=None,
    )
    if visit.name is None:
        return state
    labels = store.annotations(visit.name)
    shown = describe(visit.session)
    overlays = [*_overlays(visit, labels, colors), *filter(None, [shown.pop('overlay')])]
    shown['image'].update(name=visit.name)
    return dict(
        shown,
        **{key: value for key, value in state.items() if key != 'image'},
        overlays=overlays,
        objects=[
            {'id': label['id'], 'class': label['class'], 'color': _css(colors[label['class']])}
            for label in labels
        ],
        suggestions=[{key: each[key] for key in ('key', 'class', 'score')} for each in visit.suggestions],
        finished=store.is_finished(visit.name),
    )


def _overlays(visit: LabelSession, labels: list[dict], colors: dict) -> list[str]:
    """Return pictures of the labels and of the outlines of suggestions, drawn once after a change."""
    key = (
        visit.name,
        tuple((label['id'], label['class']) for label in labels),
        tuple(each['key'] for each in visit.suggestions),
    )
    if visit.overlay_cache is None or visit.overlay_cache[0] != key:
        visit.overlay_cache = key, _draw(visit, labels, colors)
    return visit.overlay_cache[1]


def _draw(visit: LabelSession, labels: list[dict], colors: dict) -> list[str]:
    from mmssl.data.coco_masks import decode_segment

    overlays = []
    for masks, filled in ((labels, True), (visit.suggestions, False)):
        with_mask = [mask for mask in masks if mask.get('segmentation')]
        if with_mask:
            decoded = (decode_segment(mask['segmentation'], visit.size) for mask in with_mask)
            # a suggestion may be of a class that the labels do not have yet
            own = [colors.get(mask['class'], class_color(len(colors))) for mask in with_mask]
            overlays.append(data_url(overlay_png(visit.size, decoded, own, filled)))
    return overlays


def _css(color: tuple[int, int, int]) -> str:
    return '#{:02x}{:02x}{:02x}'.format(*color)
