"""Masks without classes, for the promptable segmenter: COCO instances, folders of SA-1B, label images."""

import io
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log
from PIL import Image

from mmssl.checkpoint.regular_files import read_regular
from mmssl.data.coco_masks import check_mask_annotation, decode_segment, prepare_masks
from mmssl.data.suffixes import is_image
from mmssl.hosts.coco_files import check_image, read_json
from mmssl.registry import DATASETS

# number of masks -> indices of those to read
Choose = Callable[[int], list[int]]


class MaskDataset(BaseDataset):
    """Base class of datasets with ``read_masks(info)``, which :class:`mmssl.LoadMasks` calls.

    An entry has 'img_path', 'img_id' and whatever its masks are read from. There are no classes.
    """

    METAINFO: ClassVar[dict] = {}

    def get_data_info(self, idx: int) -> dict:
        """An entry with the function that reads its masks."""
        return {**super().get_data_info(idx), 'read_masks': self.read_masks}

    def read_masks(self, info: dict, choose: Choose | None = None) -> np.ndarray:
        """Read the masks (N, H, W) bool of an entry.

        Args:
            info: The entry.
            choose: Selects the masks to read, by their number; None for all.
        """
        raise NotImplementedError

    def _require(self, path: str | Path, what: str) -> Path:
        if not Path(path).exists():
            raise FileNotFoundError(f'{what} {path} does not exist')
        return Path(path)


def decode_segments(
    segments: list, size: tuple[int, int], choose: Choose | None = None, file: str = 'a segmentation'
) -> np.ndarray:
    """Decode the chosen ones of several COCO segmentations.

    Args:
        segments: The segmentations of an image.
        size: (H, W) of the image.
        choose: Selects masks by their number; None for all.
        file: Where they are from, for messages.

    Returns:
        (N, H, W) bool.

    Raises:
        ValueError: A segmentation cannot be decoded; the message begins with ``file``.
    """
    indices = range(len(segments)) if choose is None else choose(len(segments))
    try:
        masks = [decode_segment(segments[index], size) for index in indices]
    except Exception as error:  # pycocotools fails on invalid masks in many ways
        raise ValueError(f'{file}: {error}') from None
    return np.stack(masks) if masks else np.zeros((0, *size), bool)


def flaw(annotation: dict, size: tuple[int, int]) -> str | None:
    """Why a COCO annotation has no mask to train on; None if it has one."""
    if annotation.get('kept') is False:
        return 'not kept'
    if annotation.get('iscrowd'):
        return 'crowd'
    if not annotation.get('segmentation'):
        return 'no segmentation'
    return _shape_flaw(annotation, size)


def _shape_flaw(annotation: dict, size: tuple[int, int]) -> str | None:
    segment, box = annotation['segmentation'], annotation.get('bbox')
    if isinstance(segment, list) and any(len(polygon) < 6 for polygon in segment):
        return 'polygon of less than three points'
    if box is not None and (len(box) != 4 or not min(box[2:]) > 0):
        return 'box without area'
    if annotation.get('area', 1) <= 0:
        return 'no area'
    if isinstance(segment, dict) and tuple(segment.get('size', size)) != size:
        return 'run lengths of another size'
    return None


@DATASETS.register_module()
class CocoMasks(MaskDataset):
    """Instances of a COCO file as masks without classes.

    Crowds, empty segmentations, boxes without area and repeated ids are left out, and counted in the log.

    Args:
        ann_file: JSON file, below ``data_root``.
        keep_empty: Keep images without a mask.
        **kwargs: Passed on to mmengine's BaseDataset; ``data_prefix=dict(img_path=...)`` is the folder of the
            images below ``data_root``.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Not a COCO file, two images with one id, an annotation of an image that is not listed, or
            nothing left.
    """

    def __init__(self, ann_file: str = '', keep_empty: bool = False, **kwargs):
        self.keep_empty = keep_empty
        super().__init__(ann_file=ann_file, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Return the entries in the order of the file."""
        path = Path(self.ann_file)
        if not path.is_symlink():  # reading tells what is wrong with a link
            self._require(path, 'annotation file')
        content = read_json(path)
        if not isinstance(content, dict) or 'images' not in content or 'annotations' not in content:
            raise ValueError(f'{path} is no COCO file of instances: it has no "images" and "annotations"')
        try:
            notes = prepare_masks(content)
        except ValueError as error:
            raise ValueError(f'{path}: {error}') from None
        for note in notes:
            print_log(f'{path}: {note}', logger='current')
        entries = self._read_images(path, content['images'])
        self._add_segments(path, content['annotations'], entries)
        with_masks = [entry for entry in entries.values() if entry['segments'] or self.keep_empty]
        if len(with_masks) < len(entries):
            print_log(
                f'{path.name}: {len(entries) - len(with_masks)} of {len(entries)} images have no mask and '
                'are left out',
                logger='current',
            )
        if not with_masks:
            raise ValueError(f'{path} has no mask to learn from')
        return with_masks

    def _read_images(self, path: Path, images: list[dict]) -> dict:
        """Entries without segments, by the ids of the images."""
        counts = Counter(image['id'] for image in images)
        repeated = [image_id for image_id, count in counts.items() if count > 1]
        if repeated:
            raise ValueError(
                f'{path}: several images have the id {repeated[0]}; give every image an id of its own'
            )
        folder = Path(self.data_prefix.get('img_path', ''))
        return {
            image['id']: dict(
                img_id=image['id'],
                img_path=str(folder / image['file_name']),
                size=(image['height'], image['width']),
                segments=[],
            )
            for image in images
        }

    def _add_segments(self, path: Path, annotations: list[dict], entries: dict) -> None:
        left_out: Counter[str] = Counter()
        ids = set()
        for annotation in annotations:
            entry = entries[annotation['image_id']]
            repeated = annotation.get('id') in ids
            reason = 'repeated id' if repeated else flaw(annotation, entry['size'])
            ids.add(annotation.get('id', object()))
            if reason:
                left_out[reason] += 1
            else:
                entry['segments'].append(annotation['segmentation'])
        if left_out:
            listed = ', '.join(f'{count} {reason}' for reason, count in left_out.most_common())
            print_log(f'{path.name}: annotations left out: {listed}', logger='current')

    def read_masks(self, info: dict, choose: Choose | None = None) -> np.ndarray:
        """Read the masks (N, H, W) bool of an entry."""
        file = f'{self.ann_file}, image {info["img_id"]}'
        return decode_segments(info['segments'], tuple(info['size']), choose, file)


@DATASETS.register_module()
class SA1BDataset(MaskDataset):
    """Folders in the layout of SA-1B: next to ``NAME.jpg`` a ``NAME.json`` with 'image' and 'annotations'.

    At the start only names are read; the file of an image is read when it is needed. ``mmssl annotate``
    writes this layout; masks that a person removes from a file, or marks with ``"kept": false``, are left
    out.

    Args:
        min_iou: Smallest 'predicted_iou' of a mask, if the file has it.
        min_stability: Smallest 'stability_score' of a mask, if the file has it.
        **kwargs: Passed on to mmengine's BaseDataset; ``data_prefix=dict(img_path=...)`` is the folder,
            searched with its subfolders; ``json_path`` in it is another one for the JSON files, with the same
            subfolders.

    Raises:
        FileNotFoundError: There is no such folder, or a JSON file has no image.
        ValueError: There is no JSON file; when it is read, a file that has another layout.
    """

    def __init__(self, min_iou: float = 0.0, min_stability: float = 0.0, **kwargs):
        self.min_iou = min_iou
        self.min_stability = min_stability
        super().__init__(**kwargs)

    def load_data_list(self) -> list[dict]:
        """Return the entries in the order of their names."""
        root = self._require(self.data_prefix.get('img_path') or self.data_root or '.', 'folder')
        files = self._require(self.data_prefix.get('json_path') or root, 'folder')
        images = {
            path.relative_to(root).with_suffix(''): str(path) for path in root.rglob('*') if is_image(path)
        }
        where = 'beside it' if files == root else f'in {root}'
        entries = []
        for path in sorted(files.rglob('*.json')):
            name = path.relative_to(files).with_suffix('')
            if name not in images:
                raise FileNotFoundError(f'{path} has no image {where} ({name}.jpg or another kind)')
            entries.append(dict(img_id=path.stem, img_path=images[name], json_path=str(path)))
        if not entries:
            hint = ' beside an image: is this the folder of SA-1B?' if files == root else ''
            raise ValueError(f'{files} holds no JSON file{hint}')
        return entries

    def read_masks(self, info: dict, choose: Choose | None = None) -> np.ndarray:
        """Read the masks (N, H, W) bool of an entry."""
        path = info['json_path']
        content = read_json(path)
        image = content.get('image') if isinstance(content, dict) else None
        if not isinstance(image, dict) or not isinstance(content.get('annotations'), list):
            raise ValueError(
                f'{path} is not of SA-1B\'s layout: it has no "image" with height and width, and '
                '"annotations"'
            )
        try:
            check_image({'id': image.get('image_id'), 'file_name': 'its image', **image})
            for annotation in content['annotations']:
                check_mask_annotation(annotation)
        except (ValueError, AttributeError) as error:
            raise ValueError(f'{path}: {error}') from None
        size = int(image['height']), int(image['width'])
        segments = [
            annotation['segmentation']
            for annotation in content['annotations']
            if flaw(annotation, size) is None
            and annotation.get('predicted_iou', 1.0) >= self.min_iou
            and annotation.get('stability_score', 1.0) >= self.min_stability
        ]
        return decode_segments(segments, size, choose, path)


@DATASETS.register_module()
class LabelMasks(MaskDataset):
    """Masks from label images: each value is an object, or each connected part of a class.

    Args:
        label_suffix: End of the names of the label images, which otherwise have the names of their images.
        objects: 'values' if each value is an object (instance ids), 'parts' for connected parts of each value
            (classes).
        ignore: Values that are no object, such as background and void.
        min_pixels: Smaller parts are no objects.
        **kwargs: Passed on to mmengine's BaseDataset; ``data_prefix=dict(img_path=..., label_path=...)`` are
            folders below ``data_root``.

    Raises:
        FileNotFoundError: There is no such folder, or an image has no label image.
        ValueError: There is no image; when it is read, a label image that is not of whole numbers.
    """

    def __init__(
        self,
        label_suffix: str = '.png',
        objects: str = 'values',
        ignore: tuple[int, ...] = (0, 255),
        min_pixels: int = 16,
        **kwargs,
    ):
        if objects not in ('values', 'parts'):
            raise ValueError(f"objects={objects!r} of LabelMasks; 'values' or 'parts'")
        self.label_suffix = label_suffix
        self.objects = objects
        self.ignore = tuple(ignore)
        self.min_pixels = min_pixels
        super().__init__(**kwargs)

    def load_data_list(self) -> list[dict]:
        """Return the entries in the order of their names."""
        root = self._require(self.data_prefix.get('img_path', ''), 'folder of images')
        labels = self._require(self.data_prefix.get('label_path', ''), 'folder of label images')
        entries = []
        for path in sorted(root.iterdir()):
            is_label = root == labels and path.name.endswith(self.label_suffix)
            if not is_image(path) or is_label:
                continue
            label = labels / f'{path.stem}{self.label_suffix}'
            self._require(label, f'label image of {path.name}:')
            entries.append(dict(img_id=path.stem, img_path=str(path), label_path=str(label)))
        if not entries:
            raise ValueError(f'{root} holds no image')
        return entries

    def read_masks(self, info: dict, choose: Choose | None = None) -> np.ndarray:
        """Read the masks (N, H, W) bool of an entry."""
        with Image.open(io.BytesIO(read_regular(info['label_path']))) as image:
            label = np.asarray(image)
        if label.ndim != 2 or label.dtype.kind not in 'ui':
            raise ValueError(
                f'{info["label_path"]} has shape {label.shape} of {label.dtype}; a label image has an '
                'integer for each pixel'
            )
        masks = []
        for value in np.setdiff1d(np.unique(label), self.ignore):
            masks += self._objects_of(label == value)
        masks = [mask for mask in masks if mask.sum() >= self.min_pixels]
        if choose is not None:
            masks = [masks[index] for index in choose(len(masks))]
        return np.stack(masks) if masks else np.zeros((0, *label.shape), bool)

    def _objects_of(self, mask: np.ndarray) -> list[np.ndarray]:
        """The pixels of a value as one object, or as connected parts."""
        if self.objects == 'values':
            return [mask]
        count, parts = cv2.connectedComponents(mask.astype(np.uint8))
        return [parts == part for part in range(1, count)]
