"""What is written is read alike by labelformat, a library of other authors, and by pycocotools."""

from pathlib import Path

import numpy as np
import pytest
from label_files import label_set, mask

from mmssl.data.label_formats import write_labels
from mmssl.data.label_formats.brush import decode_brush, encode_brush


def boxes(labels):
    """Image -> class and corners of its objects."""
    return {
        image.name: [(labels.classes[each.label], *each.box) for each in image.objects]
        for image in labels.images
    }


@pytest.mark.parametrize('format', ['coco', 'yolo', 'voc', 'cvat'])
def test_labelformat_reads_the_boxes(tmp_path, format):
    formats = pytest.importorskip('labelformat.formats', reason='pip install labelformat')
    labels = label_set(tmp_path / 'source', 'boxes')
    write_labels(labels, tmp_path, format, 'link')
    if format == 'coco':
        reader = formats.COCOObjectDetectionInput(input_file=tmp_path / 'annotations.json')
    elif format == 'cvat':
        reader = formats.CVATObjectDetectionInput(input_file=tmp_path / 'annotations.xml')
    elif format == 'voc':
        names = ','.join(labels.classes)
        reader = formats.PascalVOCObjectDetectionInput(
            input_folder=tmp_path / 'Annotations', category_names=names
        )
    else:
        reader = formats.YOLOv8ObjectDetectionInput(input_file=tmp_path / 'data.yaml', input_split='train')
    result = {
        str(each.image.filename): [
            (box.category.name, box.box.xmin, box.box.ymin, box.box.xmax, box.box.ymax)
            for box in each.objects
        ]
        for each in reader.get_labels()
    }
    expected = boxes(labels)
    if format == 'voc':  # which reads the files of one folder, and has file names only
        expected = {Path(name).name: each for name, each in expected.items() if '/' not in name}
    assert set(result) == set(expected)
    for name, of_image in expected.items():
        assert [each[0] for each in result[name]] == [each[0] for each in of_image]
        for ours, theirs in zip(of_image, result[name], strict=True):
            assert theirs[1:] == pytest.approx(ours[1:], abs=1e-6 if format == 'yolo' else 0)


def test_labelformat_reads_the_outlines_of_yolo(tmp_path):
    formats = pytest.importorskip('labelformat.formats', reason='pip install labelformat')
    labels = label_set(tmp_path / 'source', 'polygons')
    write_labels(labels, tmp_path, 'yolo', 'link')
    reader = formats.YOLOv8InstanceSegmentationInput(input_file=tmp_path / 'data.yaml', input_split='train')
    result = {str(each.image.filename): each.objects for each in reader.get_labels()}
    for image in labels.images:
        for ours, theirs in zip(image.objects, result[image.name], strict=True):
            points = np.array(theirs.segmentation.polygons[0]).reshape(-1)
            assert points == pytest.approx(ours.polygons[0], abs=1e-6)


def test_pycocotools_reads_the_masks(tmp_path, capsys):
    from pycocotools.coco import COCO

    labels = label_set(tmp_path / 'source', 'masks', 'polygons')
    write_labels(labels, tmp_path, 'coco')
    coco = COCO(str(tmp_path / 'annotations.json'))
    annotations = coco.imgToAnns[1]
    assert (coco.annToMask(annotations[0]) == mask(3, 4, 20, 12, hole=True)).all()
    assert annotations[0]['area'] == 17 * 8 - 15 * 6
    assert [each['name'] for each in coco.dataset['categories']] == labels.classes


@pytest.mark.parametrize('density', [0.02, 0.5, 1])
def test_brush_masks_of_label_studio(density):
    values = np.random.default_rng(0).random((37, 41)) < density
    stream = encode_brush(values)
    assert all(0 <= byte < 256 for byte in stream)
    assert (decode_brush(stream, values.shape) == values).all()


def test_a_brush_stream_worked_out_by_hand():
    """Eight values, 0 and 255 in fours: a run of four zeros, then four single values."""
    bits = f'{8:032b}' + f'{7:05b}' + ''.join(f'{size - 1:04b}' for size in (2, 4, 8, 16))
    bits += '1' + '00' + '11' + f'{0:08b}'
    bits += '0' + '01' + '0011' + f'{255:08b}' * 4
    bits += '0' * (-len(bits) % 8)
    stream = [int(bits[start : start + 8], 2) for start in range(0, len(bits), 8)]
    assert decode_brush(stream, (1, 2)).tolist() == [[False, True]]
    with pytest.raises(ValueError, match='has 8 values, the image 24'):
        decode_brush(stream, (2, 3))
