"""What libraries keep of COCO's labels when they read a file and write it again.

    pip install labelformat supervision datumaro
    python tools/trials/label_libraries.py ANNOTATIONS IMAGES

prints a row for mmssl and for each library that is installed: of the annotations, how many boxes, outlines
or masks, and marks of crowds come back equal, to a hundredth of a pixel. datumaro wants pandas 2, so use
an environment of its own.
"""

import argparse
import importlib.metadata
import json
import logging
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path


def with_mmssl(annotations: Path, images: Path, out: Path) -> Path:
    """Read and write with this package."""
    from mmssl.data.label_formats import read_labels, write_labels

    write_labels(read_labels(annotations, images=[images]), out, 'coco')
    return out / 'annotations.json'


def with_labelformat(annotations: Path, images: Path, out: Path) -> Path:
    """Read and write with labelformat, which has a class for boxes and another for masks."""
    from labelformat.formats import COCOInstanceSegmentationInput, COCOInstanceSegmentationOutput

    labels = COCOInstanceSegmentationInput(input_file=annotations)
    COCOInstanceSegmentationOutput(output_file=out / 'out.json').save(label_input=labels)
    return out / 'out.json'


def with_supervision(annotations: Path, images: Path, out: Path) -> Path:
    """Read and write with supervision."""
    import supervision

    dataset = supervision.DetectionDataset.from_coco(str(images), str(annotations), force_masks=True)
    dataset.as_coco(annotations_path=str(out / 'out.json'))
    return out / 'out.json'


def with_datumaro(annotations: Path, images: Path, out: Path) -> Path:
    """Read and write with datumaro, which expects annotations/instances_SPLIT.json and images/SPLIT."""
    import datumaro

    for folder, name, source in (
        ('annotations', 'instances_val.json', annotations),
        ('images', 'val', images),
    ):
        (out / 'in' / folder).mkdir(parents=True)
        (out / 'in' / folder / name).symlink_to(source.resolve())
    dataset = datumaro.Dataset.import_from(str(out / 'in'), 'coco_instances')
    dataset.export(str(out / 'out'), 'coco_instances', save_media=False)
    return next((out / 'out').rglob('*.json'))


# to which numbers are compared
DECIMALS = 2
TOOLS: dict[str, Callable[[Path, Path, Path], Path]] = {
    'mmssl': with_mmssl,
    'labelformat': with_labelformat,
    'supervision': with_supervision,
    'datumaro': with_datumaro,
}


def entries(path: Path, key: Callable[[dict], object]) -> Counter:
    """Count what annotations say, with the names of their images and classes."""
    content = json.loads(path.read_text())
    names = {each['id']: Path(each['file_name']).name for each in content['images']}
    classes = {each['id']: each['name'] for each in content['categories']}
    return Counter(
        (names[each['image_id']], classes[each['category_id']], json.dumps(key(each)))
        for each in content['annotations']
    )


def masks(annotation: dict) -> object:
    """The outlines, or the run lengths whatever their form."""
    from pycocotools import mask

    value = annotation.get('segmentation')
    if isinstance(value, dict) and isinstance(value['counts'], list):
        value = mask.frPyObjects(value, *value['size'])
        value = dict(size=list(value['size']), counts=value['counts'].decode())
    if isinstance(value, list):
        value = [[round(float(number), DECIMALS) for number in part] for part in value]
    return value


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('annotations', type=Path)
    parser.add_argument('images', type=Path)
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)
    total = sum(entries(args.annotations, lambda each: 0).values())
    keys = dict(
        boxes=lambda each: [round(float(number), DECIMALS) for number in each['bbox']],
        masks=masks,
        crowds=lambda each: int(each.get('iscrowd', 0)),
    )
    for name, tool in TOOLS.items():
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            version = 'not installed'
        with tempfile.TemporaryDirectory() as out:
            try:
                result = tool(args.annotations, args.images, Path(out))
            except Exception as error:  # whatever a library raises is what is to be seen
                print(f'{name} {version}: {type(error).__name__}: {str(error).splitlines()[0][:90]}')
                continue
            equal = {
                what: (entries(args.annotations, key) & entries(result, key)).total()
                for what, key in keys.items()
            }
        print(
            f'{name} {version}: of {total}, ' + ', '.join(f'{count} {what}' for what, count in equal.items())
        )


if __name__ == '__main__':
    main()
