"""Masks to be segmented by prompts: COCO instances, SA-1B's folders, label pictures. No detection toolbox is needed to read them."""

import json
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log
from PIL import Image

from mmssl.data.suffixes import IMAGE_SUFFIXES
from mmssl.registry import DATASETS


class MaskDataset(BaseDataset):
    """mmengine's BaseDataset with ``read_masks(info)``, which :class:`mmssl.LoadMasks` calls; there are no classes.

    An entry has 'img_path', 'img_id' and whatever its masks are read from.
    """

    METAINFO: dict = {}

    def get_data_info(self, idx: int) -> dict:
        """One entry, with the function that reads its masks."""
        return {**super().get_data_info(idx), 'read_masks': self.read_masks}

    def read_masks(self, info: dict, choose=None) -> np.ndarray:
        """(N, H, W) bool masks of an entry; ``choose(count)`` gives the numbers of those to read."""
        raise NotImplementedError

    def _need(self, path: str | Path, what: str) -> Path:
        if not Path(path).exists():
            raise FileNotFoundError(f'{what} {path} does not exist')
        return Path(path)


def decode_segment(segment: dict | list, size: tuple[int, int]) -> np.ndarray:
    """A COCO segmentation as pixels.

    Args:
        segment: polygons (x, y, x, y, ...), or run lengths, as a list or compressed.
        size: (H, W) of the image.

    Returns:
        (H, W) bool.

    Raises:
        ValueError: run lengths of an image of another size.
    """
    from pycocotools import mask as coco

    if isinstance(segment, list):
        code = coco.merge(coco.frPyObjects(segment, *size))
    else:
        if tuple(segment['size']) != tuple(size):
            raise ValueError(
                f'run lengths of a {segment["size"][0]}x{segment["size"][1]} image, but this one is {size[0]}x{size[1]} '
                '(height x width)'
            )
        code = coco.frPyObjects(segment, *size) if isinstance(segment['counts'], list) else segment
    return coco.decode(code).astype(bool)


def flaw(annotation: dict, size: tuple[int, int]) -> str | None:
    """Why a COCO annotation has no mask to learn from, or None."""
    if annotation.get('kept') is False:
        return 'not kept'
    if annotation.get('iscrowd'):
        return 'crowd'
    segment = annotation.get('segmentation')
    if not segment:
        return 'no segmentation'
    if isinstance(segment, list) and any(len(polygon) < 6 for polygon in segment):
        return 'polygon of less than three points'
    box = annotation.get('bbox')
    if box is not None and (len(box) != 4 or not min(box[2:]) > 0):
        return 'box without area'
    if annotation.get('area', 1) <= 0:
        return 'no area'
    if isinstance(segment, dict) and tuple(segment.get('size', size)) != size:
        return 'run lengths of another size'
    return None


@DATASETS.register_module()
class CocoMasks(MaskDataset):
    """The instances of a COCO file as masks without classes; mmdet's CocoDataset needs mmdet and keeps polygons for its own transforms.

    Crowds, empty segmentations, boxes without area and repeated ids are left out, and counted in the log.

    Args:
        ann_file: the JSON file, below ``data_root``.
        data_prefix: ``dict(img_path=...)``, folder of the images below ``data_root``.
        keep_empty: keep images without a mask.
        others: of mmengine's BaseDataset.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no COCO file; two images with one id; an annotation of an image that is not there; nothing
            left.
    """

    def __init__(self, ann_file: str = '', keep_empty: bool = False, **kwargs):
        self.keep_empty = keep_empty
        super().__init__(ann_file=ann_file, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Entries in the order of the file."""
        path = self._need(self.ann_file, 'annotation file')
        content = json.loads(path.read_text(encoding='utf-8'))
        if not isinstance(content, dict) or 'images' not in content or 'annotations' not in content:
            raise ValueError(f'{path} is no COCO file of instances: it has no "images" and "annotations"')
        repeated = [
            number
            for number, count in Counter(image['id'] for image in content['images']).items()
            if count > 1
        ]
        if repeated:
            raise ValueError(
                f'{path}: several images have the id {repeated[0]}; give every image an id of its own'
            )
        entries = {
            image['id']: dict(
                img_id=image['id'],
                img_path=str(Path(self.data_prefix.get('img_path', '')) / image['file_name']),
                size=(image['height'], image['width']),
                segments=[],
            )
            for image in content['images']
        }
        left_out: Counter[str] = Counter()
        seen = set()
        for annotation in content['annotations']:
            entry = entries.get(annotation['image_id'])
            if entry is None:
                raise ValueError(
                    f'{path}: annotation {annotation.get("id")} is of image {annotation["image_id"]}, which is not listed'
                )
            reason = 'repeated id' if annotation.get('id') in seen else flaw(annotation, entry['size'])
            seen.add(annotation.get('id', object()))
            if reason:
                left_out[reason] += 1
            else:
                entry['segments'].append(annotation['segmentation'])
        if left_out:
            listed = ', '.join(f'{count} {reason}' for reason, count in left_out.most_common())
            print_log(f'{path.name}: annotations left out: {listed}', logger='current')
        kept = [entry for entry in entries.values() if entry['segments'] or self.keep_empty]
        if len(kept) < len(entries):
            print_log(
                f'{path.name}: {len(entries) - len(kept)} of {len(entries)} images have no mask and are left out',
                logger='current',
            )
        if not kept:
            raise ValueError(f'{path} has no mask to learn from')
        return kept

    def read_masks(self, info: dict, choose=None) -> np.ndarray:
        """(N, H, W) bool."""
        segments, size = info['segments'], tuple(info['size'])
        numbers = range(len(segments)) if choose is None else choose(len(segments))
        masks = [decode_segment(segments[number], size) for number in numbers]
        return np.stack(masks) if masks else np.zeros((0, *size), bool)


@DATASETS.register_module()
class SA1BDataset(MaskDataset):
    """SA-1B's layout: beside ``NAME.jpg`` a ``NAME.json`` with 'image' and 'annotations' of run lengths. No host reads it.

    Only names are read at the start; an image's file when its turn comes. ``mmssl annotate`` writes this
    layout; masks that a person takes out of a file, or marks with ``"kept": false``, are left out.

    Args:
        min_iou: least 'predicted_iou' of a mask, where the file has one.
        min_stability: least 'stability_score'.
        others: of mmengine's BaseDataset; ``data_prefix=dict(img_path=...)`` is the folder, searched with its
            folders; ``json_path`` in it another one for the JSON files, with the same folders inside.

    Raises:
        FileNotFoundError: no such folder, or a JSON file without its image.
        ValueError: no JSON file; at its turn, a file that is not of this layout.
    """

    def __init__(self, min_iou: float = 0.0, min_stability: float = 0.0, **kwargs):
        self.min_iou, self.min_stability = min_iou, min_stability
        super().__init__(**kwargs)

    def load_data_list(self) -> list[dict]:
        """Entries in the order of their names."""
        root = self._need(self.data_prefix.get('img_path') or self.data_root or '.', 'folder')
        files = self._need(self.data_prefix.get('json_path') or root, 'folder')
        pictures = {
            path.relative_to(root).with_suffix(''): str(path)
            for path in root.rglob('*')
            if path.suffix.lower() in IMAGE_SUFFIXES
        }
        where = 'beside it' if files == root else f'in {root}'
        entries = []
        for path in sorted(files.rglob('*.json')):
            below = path.relative_to(files).with_suffix('')
            if below not in pictures:
                raise FileNotFoundError(f'{path} has no image {where} ({below}.jpg or another kind)')
            entries.append(dict(img_id=path.stem, img_path=pictures[below], json_path=str(path)))
        if not entries:
            raise ValueError(
                f'{files} holds no JSON file'
                + (' beside an image: is this the folder of SA-1B?' if files == root else '')
            )
        return entries

    def read_masks(self, info: dict, choose=None) -> np.ndarray:
        """(N, H, W) bool."""
        path = info['json_path']
        content = json.loads(Path(path).read_text(encoding='utf-8'))
        if (
            not isinstance(content, dict)
            or 'annotations' not in content
            or not {'height', 'width'} <= set(content.get('image', ()))
        ):
            raise ValueError(
                f'{path} is not of SA-1B\'s layout: it has no "image" with height and width, and "annotations"'
            )
        size = content['image']['height'], content['image']['width']
        found = [
            annotation
            for annotation in content['annotations']
            if flaw(annotation, size) is None
            and annotation.get('predicted_iou', 1.0) >= self.min_iou
            and annotation.get('stability_score', 1.0) >= self.min_stability
        ]
        numbers = range(len(found)) if choose is None else choose(len(found))
        masks = [decode_segment(found[number]['segmentation'], size) for number in numbers]
        return np.stack(masks) if masks else np.zeros((0, *size), bool)


@DATASETS.register_module()
class LabelMasks(MaskDataset):
    """Masks from label pictures: every value an object, or every connected part of a class. No host makes objects of them.

    Args:
        data_prefix: ``dict(img_path=..., label_path=...)``, folders below ``data_root``; pictures go by the
            name of their image.
        label_suffix: of the label pictures.
        objects: 'values', each value is an object (instance ids); 'parts', connected parts of each value
            (classes).
        ignore: values that are no object, background and void.
        min_pixels: smaller parts are no object.
        others: of mmengine's BaseDataset.

    Raises:
        FileNotFoundError: no such folder, or an image without a label picture.
        ValueError: no image; at its turn, a picture that is not of whole numbers.
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
        self.label_suffix, self.objects, self.ignore, self.min_pixels = (
            label_suffix,
            objects,
            tuple(ignore),
            min_pixels,
        )
        super().__init__(**kwargs)

    def load_data_list(self) -> list[dict]:
        """Entries in the order of their names."""
        root = self._need(self.data_prefix.get('img_path', ''), 'folder of images')
        labels = self._need(self.data_prefix.get('label_path', ''), 'folder of label pictures')
        entries = []
        for path in sorted(root.iterdir()):
            if path.suffix.lower() in IMAGE_SUFFIXES and not (
                root == labels and path.name.endswith(self.label_suffix)
            ):
                label = self._need(
                    labels / f'{path.stem}{self.label_suffix}', f'label picture of {path.name}:'
                )
                entries.append(dict(img_id=path.stem, img_path=str(path), label_path=str(label)))
        if not entries:
            raise ValueError(f'{root} holds no image')
        return entries

    def read_masks(self, info: dict, choose=None) -> np.ndarray:
        """(N, H, W) bool."""
        with Image.open(info['label_path']) as picture:
            label = np.asarray(picture)
        if label.ndim != 2 or label.dtype.kind not in 'ui':
            raise ValueError(
                f'{info["label_path"]} has shape {label.shape} of {label.dtype}; a label picture has one whole number a pixel'
            )
        masks = []
        for value in np.setdiff1d(np.unique(label), self.ignore):
            mask = label == value
            if self.objects == 'values':
                masks.append(mask)
                continue
            count, parts = cv2.connectedComponents(mask.astype(np.uint8))
            masks += [parts == part for part in range(1, count)]
        masks = [mask for mask in masks if mask.sum() >= self.min_pixels]
        if choose is not None:
            masks = [masks[number] for number in choose(len(masks))]
        return np.stack(masks) if masks else np.zeros((0, *label.shape), bool)
