"""What one visitor of the labelling page does: prompts on an image, masks that become labels."""

from collections.abc import Callable

from mmssl.demo_page.label_desk import LabelDesk
from mmssl.demo_page.labels import class_name
from mmssl.demo_page.session import Session


class LabelSession:
    """One visitor, who labels one image after the other.

    Args:
        visitor: Id of the visitor.
        desk: What all visitors share.
        session: Image and prompts.
        max_pixels: Largest image to accept.

    Attributes:
        name: The image that is labelled; None if there is none left.
        suggestions: Masks of this image that are neither accepted nor discarded.
        note: What happened last, in words.
    """

    def __init__(self, visitor: str, desk: LabelDesk, session: Session, max_pixels: int | None = None):
        self.visitor = visitor
        self.desk = desk
        self.session = session
        self.max_pixels = max_pixels
        self.name: str | None = None
        self.suggestions: list[dict] = []
        self.note = ''
        self._skipped: set[str] = set()
        self._visited: list[str] = []
        # what label_state has drawn last, by what it depends on
        self.overlay_cache: tuple[tuple, list[str]] | None = None
        self._undo: list[Callable[[], object]] = []

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the image."""
        height, width = self.session.require_image().shape[:2]
        return height, width

    def require(self) -> str:
        """Return the image, leased to this visitor.

        Raises:
            ValueError: There is none, or somebody else has taken it over.
        """
        if self.name is None:
            raise ValueError('there is no image to label')
        self.desk.take(self.name, self.visitor)
        return self.name

    def go_on(self) -> None:
        """Open the next image that nobody has labelled; skipped ones come last."""
        if self.name is not None:
            self._visited.append(self.name)
        self.name = None
        self.desk.leases.release(self.visitor)
        while True:
            name = self.desk.take_next(self.visitor, self._skipped)
            if name is None and self._skipped:
                self._skipped.clear()
                continue
            if name is None:
                self.note = ''
                return
            try:
                self._open(name)
                return
            except (ValueError, OSError) as error:
                self.desk.unreadable[name] = str(error)

    def go_back(self) -> None:
        """Open the image before this one again.

        Raises:
            ValueError: There is none, or somebody else is labelling it.
        """
        if not self._visited:
            raise ValueError('this is the first image')
        self.desk.take(self._visited[-1], self.visitor)
        name = self._visited.pop()
        if self.name is not None:
            self.desk.leases.release(self.visitor)
            self.desk.take(name, self.visitor)
        self._open(name)

    def _open(self, name: str) -> None:
        self.session.open(self.desk.folder / name, name, self.max_pixels)
        labels = self.desk.store.annotations(name)
        accepted = {label.get('suggestion') for label in labels}
        finished = self.desk.store.is_finished(name)
        masks = [] if finished else self.desk.suggestions.of(name)
        self.suggestions = [mask for mask in masks if mask['key'] not in accepted]
        self._undo = []
        self.name = name
        self.note = f'{len(labels)} objects so far' if labels else 'Click on an object, or draw a box.'

    def accept(self, label: str) -> None:
        """Make the mask that is shown a label.

        Raises:
            ValueError: There is no mask, or no class.
        """
        name = self.require()
        label = class_name(label)
        records = self.session.current_records()
        if not records:
            raise ValueError('there is no mask to accept: click on an object, or draw a box')
        record = {key: records[0][key] for key in ('segmentation', 'bbox', 'area')}
        self._add(name, record, label)
        self.session.clear()
        self.note = f'{label} accepted'

    def accept_suggestion(self, key: str) -> None:
        """Make a suggested mask a label.

        Raises:
            ValueError: There is no such suggestion, or its mask is not one of this image.
        """
        self._accept(self._suggestion(key))

    def accept_all(self) -> None:
        """Make all suggested masks labels."""
        self.require()
        count = len(self.suggestions)
        for suggestion in list(self.suggestions):
            self._accept(suggestion)
        self.note = f'{count} suggestions accepted'

    def _accept(self, suggestion: dict) -> None:
        from mmssl.data.annotations import encode
        from mmssl.data.coco_masks import decode_segment

        name = self.require()
        record = encode(decode_segment(suggestion['segmentation'], self.size))
        if not record['area']:
            raise ValueError('this mask is empty; discard it')
        self._add(name, dict(record, suggestion=suggestion['key']), suggestion['class'])
        self._drop(suggestion)
        self.note = f'{suggestion["class"]} accepted'

    def discard_suggestion(self, key: str) -> None:
        """Drop a suggested mask.

        Raises:
            ValueError: There is no such suggestion.
        """
        self.require()
        suggestion = self._suggestion(key)
        self._undo.append(lambda: None)
        self._drop(suggestion)
        self.note = 'discarded'

    def _drop(self, suggestion: dict) -> None:
        """Drop a suggestion, which undoing the last change brings back."""
        index = self.suggestions.index(suggestion)
        del self.suggestions[index]
        undo = self._undo.pop()

        def restore() -> None:
            undo()
            self.suggestions.insert(index, suggestion)

        self._undo.append(restore)

    def _suggestion(self, key: str) -> dict:
        for suggestion in self.suggestions:
            if suggestion['key'] == key:
                return suggestion
        raise ValueError('there is no such suggestion any more')

    def _add(self, name: str, record: dict, label: str) -> None:
        store = self.desk.store
        added = store.add(name, self.size, record, label)
        self._undo.append(lambda: store.remove(name, added))

    def remove(self, annotation_id: int) -> None:
        """Remove a label."""
        name = self.require()
        store = self.desk.store
        removed = store.remove(name, annotation_id)
        self._undo.append(lambda: store.restore(name, removed))
        self.note = 'removed'

    def rename(self, annotation_id: int, label: str) -> None:
        """Give a label another class."""
        name = self.require()
        store = self.desk.store
        before = next((it['class'] for it in store.annotations(name) if it['id'] == annotation_id), '')
        store.rename(name, annotation_id, label)
        self._undo.append(lambda: store.rename(name, annotation_id, before))
        self.note = f'now {class_name(label)}'

    def undo(self) -> None:
        """Take back the last click or box, or else the last change of labels of this image.

        Raises:
            ValueError: There is nothing to take back.
        """
        self.require()
        if self.session.actions:
            self.session.undo()
            self.note = self.session.note
        elif self._undo:
            self._undo.pop()()
            self.note = 'taken back'
        else:
            raise ValueError('there is nothing to undo in this image')

    def finish(self) -> None:
        """Note that all objects of the image are labelled, and open the next one.

        Raises:
            ValueError: There is a mask that is neither accepted nor cleared.
        """
        name = self.require()
        if len(self.session.masks):
            raise ValueError('the mask is not accepted yet: accept it (Enter) or clear it (Esc) first')
        self.desk.store.finish(name, self.size)
        self.go_on()

    def skip(self) -> None:
        """Open the next image, and this one after all others."""
        if self.name is not None:
            self._skipped.add(self.name)
        self.go_on()
