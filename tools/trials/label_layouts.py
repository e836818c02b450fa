"""Folders of labels as people have them: odd names, other machines' paths, gaps, duplicates, damaged files.

    python tools/trials/label_layouts.py OUT

writes all of them below OUT, reads each, and prints what was read or the line that was said. Each layout of
boxes holds the same five images with the same boxes, so that it is read right if they come back.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from PIL import Image

SIZE = (64, 48)
CLASSES = ('cat', 'dog')
# image -> (class, left, top, right, bottom) of its objects; the last image has none
OBJECTS: dict[str, list[tuple[str, int, int, int, int]]] = {
    'a': [('cat', 1, 2, 21, 32)],
    'b': [('dog', 0, 0, 64, 48), ('cat', 10, 10, 20, 20)],
    'c': [('dog', 5, 6, 7, 18)],
    'd': [('cat', 33, 1, 63, 47)],
    'e': [],
}
# layout -> (function that writes it, what its error says; '' if it must be read right)
LAYOUTS: dict[str, tuple[Callable[[Path], None], str]] = {}


def layout(function: Callable | None = None, *, error: str = ''):
    """Register a layout, with a part of the line that it must end in if it cannot be read."""
    if function is None:
        return lambda each: layout(each, error=error)
    LAYOUTS[function.__name__] = function, error
    return function


def picture(path: Path, size: tuple[int, int] = SIZE) -> None:
    """Write an image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', size, (90, 120, 150)).save(path)


def pictures(folder: Path, suffix: str = '.jpg') -> None:
    """Write all images into a folder."""
    for stem in OBJECTS:
        picture(folder / f'{stem}{suffix}')


def text(path: Path, content: str, encoding: str = 'utf-8') -> None:
    """Write a text file with the line ends that are given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode(encoding))


def coco(
    name: Callable[[str], str] = '{}.jpg'.format, stems=tuple(OBJECTS), first: int = 1, step: int = 1
) -> dict:
    """Content of a COCO file; ids of images and categories begin at ``first`` and go up by ``step``."""
    images, annotations = [], []
    for index, stem in enumerate(stems):
        images.append(dict(id=first + index * step, file_name=name(stem), width=SIZE[0], height=SIZE[1]))
        for label, left, top, right, bottom in OBJECTS[stem]:
            annotations.append(
                dict(
                    id=first + len(annotations) * step,
                    image_id=first + index * step,
                    category_id=first + CLASSES.index(label) * step,
                    bbox=[left, top, right - left, bottom - top],
                    area=(right - left) * (bottom - top),
                    iscrowd=0,
                )
            )
    categories = [dict(id=first + index * step, name=each) for index, each in enumerate(CLASSES)]
    return dict(images=images, annotations=annotations, categories=categories)


def coco_file(path: Path, content: dict, encoding: str = 'utf-8') -> None:
    """Write a COCO file."""
    text(path, json.dumps(content), encoding)


def voc(stem: str, filename: str | None = None, size: tuple[int, int] = SIZE, indent: str = '') -> str:
    """Text of an XML file."""
    objects = ''.join(
        f'<object><name>{indent}{label}{indent}</name><bndbox><xmin>{left}</xmin><ymin>{top}</ymin>'
        f'<xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>'
        for label, left, top, right, bottom in OBJECTS[stem]
    )
    name = f'{stem}.jpg' if filename is None else filename
    return (
        f'<annotation><filename>{name}</filename><size><width>{size[0]}</width><height>{size[1]}</height>'
        f'<depth>3</depth></size>{objects}</annotation>'
    )


def voc_folder(root: Path, **options) -> None:
    """Write VOC's layout without lists."""
    pictures(root / 'JPEGImages')
    for stem in OBJECTS:
        text(root / f'Annotations/{stem}.xml', voc(stem, **options))


def yolo(stem: str, digits: int = 6) -> str:
    """Text of a YOLO file."""
    lines = []
    for label, left, top, right, bottom in OBJECTS[stem]:
        values = (left + right) / 2 / SIZE[0], (top + bottom) / 2 / SIZE[1]
        values += (right - left) / SIZE[0], (bottom - top) / SIZE[1]
        lines.append(' '.join([str(CLASSES.index(label)), *(f'{value:.{digits}f}' for value in values)]))
    return ''.join(f'{line}\n' for line in lines)


def yolo_folder(root: Path, yaml: str = 'train: images\nval: images\nnames: [cat, dog]\n') -> None:
    """Write YOLO's layout."""
    pictures(root / 'images')
    for stem in OBJECTS:
        text(root / f'labels/{stem}.txt', yolo(stem))
    if yaml:
        text(root / 'data.yaml', yaml)


def table(header: str = 'path,x1,y1,x2,y2,label', separator: str = ',', end: str = '\n') -> str:
    """Text of a table of boxes."""
    rows = [header.replace(',', separator)] if header else []
    for stem, objects in OBJECTS.items():
        rows += [separator.join(map(str, (f'{stem}.jpg', *box, label))) for label, *box in objects]
        rows += [separator.join([f'{stem}.jpg', *[''] * 5])] * (not objects)
    return end.join([*rows, ''])


@layout
def coco_names_with_spaces(root):
    for stem in OBJECTS:
        picture(root / f'my images (1)/{stem}.jpg')
    coco_file(root / 'my labels.json', coco())


@layout
def coco_ids_with_gaps(root):
    pictures(root / 'images')
    coco_file(root / 'annotations/instances.json', coco(first=17, step=1000))


@layout
def coco_ids_from_zero(root):
    pictures(root / 'images')
    coco_file(root / 'a.json', coco(first=0))


@layout
def coco_nested_folders(root):
    pictures(root / 'data/2021/camera 1')
    coco_file(root / 'data/labels/x.json', coco('2021/camera 1/{}.jpg'.format))


@layout
def coco_absolute_paths_of_another_machine(root):
    pictures(root / 'images')
    coco_file(root / 'labels.json', coco('/home/ann/project/images/{}.jpg'.format))


@layout
def coco_windows_separators(root):
    pictures(root / 'images/left')
    coco_file(root / 'labels.json', coco('C:\\Users\\ann\\images\\left\\{}.jpg'.format))


@layout
def coco_relative_path_with_dots(root):
    pictures(root / 'images')
    coco_file(root / 'annotations/labels.json', coco('../images/{}.jpg'.format))


@layout
def coco_uppercase_endings(root):
    pictures(root / 'IMAGES', '.JPG')
    coco_file(root / 'LABELS.JSON', coco())


@layout
def coco_byte_order_mark(root):
    pictures(root)
    coco_file(root / 'labels.json', coco(), 'utf-8-sig')


@layout
def coco_several_files(root):
    pictures(root / 'images')
    coco_file(root / 'batch_1.json', coco(stems=('a', 'b')))
    coco_file(root / 'batch_2.json', coco(stems=('c', 'd', 'e')))


@layout
def coco_train_val_and_all_of_both(root):
    pictures(root / 'images')
    coco_file(root / 'train.json', coco(stems=('a', 'b')))
    coco_file(root / 'val.json', coco(stems=('c', 'd', 'e')))
    coco_file(root / 'annotations_all.json', coco())


@layout
def coco_with_captions_beside(root):
    pictures(root / 'train2017')
    coco_file(root / 'annotations/instances_train2017.json', coco())
    captions = dict(coco(), annotations=[dict(id=1, image_id=1, caption='a cat')])
    del captions['categories']
    coco_file(root / 'annotations/captions_train2017.json', captions)


@layout
def coco_roboflow_export(root):
    for split, stems in (('train', ('a', 'b')), ('valid', ('c', 'd', 'e'))):
        content = coco(stems=stems)
        content['categories'] = [
            dict(id=0, name='pets', supercategory='none'),
            *(dict(each, supercategory='pets') for each in content['categories']),
        ]
        coco_file(root / split / '_annotations.coco.json', content)
        for stem in stems:
            picture(root / split / f'{stem}.jpg')


@layout
def coco_one_missing_image(root):
    pictures(root / 'images')
    content = coco()
    content['images'].append(dict(id=99, file_name='gone.jpg', width=1, height=1))
    coco_file(root / 'labels.json', content)


@layout(error='none of the images')
def coco_all_images_missing(root):
    coco_file(root / 'labels.json', coco())


@layout(error='may be')
def coco_duplicate_names(root):
    pictures(root / 'left')
    pictures(root / 'right')
    coco_file(root / 'labels.json', coco())


@layout(error='is labelled twice')
def coco_image_in_two_files(root):
    pictures(root / 'images')
    coco_file(root / 'one.json', coco())
    coco_file(root / 'two.json', coco(stems=('a',)))


@layout(error='not JSON')
def coco_truncated(root):
    pictures(root / 'images')
    text(root / 'labels.json', json.dumps(coco())[:200])


@layout(error='64x48 in the labels and 48x64')
def coco_turned_image(root):
    pictures(root / 'images')
    picture(root / 'images/b.jpg', (48, 64))
    coco_file(root / 'labels.json', coco())


@layout(error='has category 9')
def coco_unknown_category(root):
    pictures(root / 'images')
    content = coco()
    content['annotations'][0]['category_id'] = 9
    coco_file(root / 'labels.json', content)


@layout(error='id 1 is used 2 times')
def coco_duplicate_ids(root):
    pictures(root / 'images')
    content = coco()
    content['images'][1]['id'] = 1
    coco_file(root / 'labels.json', content)


@layout
def voc_flat(root):
    pictures(root)
    for stem in OBJECTS:
        text(root / f'{stem}.xml', voc(stem))


@layout
def voc_size_of_zero_and_wrong_filename(root):
    voc_folder(root, size=(0, 0), filename='IMG_0001.jpg')


@layout
def voc_with_carriage_returns_and_a_mark(root):
    pictures(root / 'images')
    for stem in OBJECTS:
        content = voc(stem, indent='\r\n  ').replace('><', '>\r\n<')
        text(root / f'xml/{stem}.xml', content, 'utf-8-sig')


@layout
def voc_lists(root):
    voc_folder(root)
    text(root / 'ImageSets/Main/train.txt', 'a\r\nb\r\n')
    text(root / 'ImageSets/Main/val.txt', 'c\nd\ne')
    text(root / 'ImageSets/Main/cat_train.txt', 'a 1\nb -1\n')


@layout(error='also in the list of train')
def voc_image_in_train_and_val(root):
    voc_folder(root)
    text(root / 'ImageSets/Main/train.txt', 'a\nb\nc\n')
    text(root / 'ImageSets/Main/val.txt', 'c\nd\ne\n')


@layout(error='not XML')
def voc_truncated(root):
    voc_folder(root)
    text(root / 'Annotations/c.xml', voc('c')[:-40])


@layout(error="<xmin> of <bndbox> is ''")
def voc_without_a_number(root):
    voc_folder(root)
    text(root / 'Annotations/c.xml', voc('c').replace('<xmin>5</xmin>', '<xmin></xmin>'))


@layout
def yolo_empty_and_absent_text_files(root):
    yolo_folder(root)
    (root / 'labels/e.txt').unlink()
    picture(root / 'images/f.jpg')
    text(root / 'labels/f.txt', '')


@layout
def yolo_roboflow_export(root):
    for split, stems in (('train', ('a', 'b')), ('valid', ('c', 'd', 'e'))):
        for stem in stems:
            picture(root / split / f'images/{stem}.jpg')
            text(root / split / f'labels/{stem}.txt', yolo(stem))
    text(root / 'data.yaml', 'train: ../train/images\nval: ../valid/images\nnc: 2\nnames: [cat, dog]\n')
    text(root / 'README.roboflow.txt', 'pets\n')


@layout
def yolo_path_of_another_machine(root):
    yolo_folder(root, 'path: /content/datasets/pets\ntrain: images\nval: images\nnames: {0: cat, 1: dog}\n')


@layout
def yolo_carriage_returns_comments_and_a_mark(root):
    yolo_folder(root, '\ufeff# pets\r\ntrain: images\r\nval: images\r\nnames:\r\n  0: cat\r\n  1: dog\r\n')
    for stem in OBJECTS:
        text(root / f'labels/{stem}.txt', '\ufeff' + yolo(stem, 10).replace('\n', '\r\n') + '\r\n')


@layout
def yolo_images_and_texts_in_a_folder(root):
    pictures(root / 'obj_train_data', '.PNG')
    for stem in OBJECTS:
        text(root / f'obj_train_data/{stem}.txt', yolo(stem))
    text(root / 'obj.names', 'cat\ndog\n')
    text(root / 'train.txt', ''.join(f'data/obj_train_data/{stem}.PNG\n' for stem in OBJECTS))


@layout
def yolo_lists_with_windows_separators(root):
    yolo_folder(root, 'train: train.txt\nval: val.txt\nnames: [cat, dog]\n')
    text(root / 'train.txt', 'D:\\pets\\images\\a.jpg\r\nD:\\pets\\images\\b.jpg\r\n')
    text(root / 'val.txt', './images/c.jpg\n./images/d.jpg\n./images/e.jpg\n')


@layout(error='has class 1, but 1 classes are named')
def yolo_more_classes_than_names(root):
    yolo_folder(root, 'train: images\nval: images\nnames: [cat]\n')


@layout(error='coordinates are fractions')
def yolo_coordinates_in_pixels(root):
    yolo_folder(root)
    text(root / 'labels/a.txt', '0 11 17 20 30\n')


@layout(error='nc is 3, but names lists 2 classes')
def yolo_wrong_number_of_classes(root):
    yolo_folder(root, 'train: images\nval: images\nnc: 3\nnames: [cat, dog]\n')


@layout(error='train is pictures/train, which does not exist')
def yolo_folder_that_does_not_exist(root):
    yolo_folder(root, 'train: pictures/train\nval: images\nnames: [cat, dog]\n')


@layout(error='line 3 is')
def yolo_broken_line(root):
    yolo_folder(root)
    text(root / 'labels/b.txt', yolo('b').replace('\n1', '\n') + '0 0.5\n')


@layout
def csv_without_a_header(root):
    pictures(root / 'images')
    text(root / 'labels.csv', table(header=''))


@layout
def csv_with_semicolons_a_mark_and_comments(root):
    pictures(root / 'images')
    content = '\ufeff' + table('Filename,xmin,ymin,xmax,ymax,class', ';', '\r\n')
    text(root / 'labels.csv', content + '# end\r\n')


@layout(error='row 2 has the box')
def csv_with_a_word_for_a_number(root):
    pictures(root / 'images')
    text(root / 'labels.csv', table().replace('0,0,64', '0,zero,64'))


@layout
def coco_one_class(root):
    pictures(root / 'images')
    content = coco()
    content['categories'] = [dict(id=1, name='cat')]
    content['annotations'] = [each for each in content['annotations'] if each['category_id'] == 1]
    coco_file(root / 'labels.json', content)


def label_map(path: Path, values: list[list], size: tuple[int, int] = SIZE, mode: str = 'L') -> None:
    """Write a label map of blocks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    blocks = Image.new(mode, (len(values[0]), len(values)))
    blocks.putdata([value for row in values for value in row])
    blocks.resize(size, Image.Resampling.NEAREST).save(path)


def label_maps(
    root: Path, values: list[list], folder: str = 'masks', ending: str = '', mode: str = 'L'
) -> None:
    """Write images, and a label map of each."""
    pictures(root / 'images')
    for stem in OBJECTS:
        label_map(root / folder / f'{stem}{ending}.png', values, mode=mode)


@layout
def maps_of_0_and_255_with_an_ending(root):
    label_maps(root, [[0, 255], [255, 0]], 'images', '_mask')


@layout
def maps_in_folders_of_the_splits(root):
    for split in ('Training', 'Validation'):
        label_maps(root / split, [[0, 1], [2, 255]], 'Ground Truth')
    text(root / 'classes.txt', 'sky\r\nroad\r\ncar\r\n')


@layout(error='no table says what they are')
def maps_of_colours_without_a_table(root):
    label_maps(root, [[(255, 0, 0), (0, 255, 0)]], mode='RGB')


@layout(error='has the colour (0, 255, 0), which is not in classes.csv')
def maps_of_a_colour_that_is_not_in_the_table(root):
    label_maps(root, [[(255, 0, 0), (0, 255, 0)]], mode='RGB')
    text(root / 'classes.csv', 'name,r,g,b\nsky,255,0,0\n')


@layout(error='has the value 2, but classes.txt names the 2 classes')
def maps_of_more_values_than_names(root):
    label_maps(root, [[0, 1, 2]])
    text(root / 'classes.txt', 'sky\nroad\n')


@layout(error='do not look like class numbers')
def maps_of_grey_levels(root):
    label_maps(root, [[0, 60, 120, 180]])


@layout(error='is 20x48, its image')
def maps_of_another_size(root):
    label_maps(root, [[0, 1]])
    label_map(root / 'masks/c.png', [[0, 1]], (20, 48))


@layout
def class_folders_with_spaces_in_splits(root):
    for split in ('train', 'val'):
        for name in ('big cat', 'dog (1)'):
            pictures(root / 'photos' / split / name, '.JPEG')


@layout(error='differ only in case')
def class_folders_that_differ_in_case(root):
    for name in ('Cat', 'cat', 'dog'):
        pictures(root / name)


@layout(error='has no image in the training part')
def class_folders_of_a_class_to_validate_only(root):
    for name in ('train/cat', 'train/dog', 'val/cat', 'val/fox'):
        pictures(root / name)


@layout(error='is in no class folder')
def class_folders_and_images_outside(root):
    for name in ('cat', 'dog', '.'):
        pictures(root / name)


@layout(error='give the corners x1, y1, x2, y2')
def csv_of_widths_and_heights(root):
    pictures(root / 'images')
    text(root / 'labels.csv', 'image,x,y,w,h,label\na.jpg,1,2,20,30,cat\nc.jpg,5,6,2,12,dog\n')


@layout
def coco_ids_with_a_point(root):
    pictures(root / 'images')
    content = coco()
    for entry in content['images']:
        entry['id'] = float(entry['id'])
    coco_file(root / 'labels.json', content)


@layout
def coco_names_as_in_urls(root):
    pictures(root / 'my pictures')
    coco_file(root / 'labels.json', coco('my%20pictures/{}.jpg'.format))


@layout
def coco_names_beside_folders_of_the_same_names(root):
    pictures(root / 'images')
    for stem in OBJECTS:
        picture(root / f'images/old/{stem}.jpg', (9, 9))
    coco_file(root / 'labels.json', coco())


@layout
def yolo_classes_with_a_point(root):
    yolo_folder(root)
    for path in (root / 'labels').iterdir():
        rows = [line.split() for line in path.read_text().splitlines()]
        path.write_text('\n'.join(' '.join([f'{row[0]}.0', *row[1:]]) for row in rows))


@layout
def yolo_texts_of_two_bytes_a_character(root):
    yolo_folder(root)
    for path in (root / 'labels').iterdir():
        path.write_text(path.read_text(), 'utf-16')


@layout
def yolo_numbers_with_exponents(root):
    yolo_folder(root, 'train: images\nval: images\nnames: {"0": cat, "1": dog}\n')
    for path in (root / 'labels').iterdir():
        rows = [line.split() for line in path.read_text().splitlines()]
        lines = [' '.join([row[0], *(f'{float(value):.8e}' for value in row[1:])]) for row in rows]
        path.write_text('\n'.join(lines))


@layout(error="line 1 is 'cat 0.5 0.5 0.1 0.1'")
def yolo_names_in_place_of_numbers(root):
    yolo_folder(root)
    text(root / 'labels/a.txt', 'cat 0.5 0.5 0.1 0.1')


@layout
def coco_outline_of_two_points(root):
    pictures(root / 'images')
    content = coco()
    content['annotations'][0]['segmentation'] = [[1, 2, 21, 32]]
    coco_file(root / 'labels.json', content)


@layout
def maps_beside_folders_of_images_and_splits(root):
    for split in ('train', 'val'):
        pictures(root / f'{split}_images')
        for stem in OBJECTS:
            label_map(root / f'{split}_masks/{stem}.png', [[0, 1], [1, 2]])


@layout
def maps_as_cityscapes_names_them(root):
    for split in ('train', 'val'):
        for stem in OBJECTS:
            picture(root / f'leftImg8bit/{split}/ulm/{split}_{stem}_leftImg8bit.png')
            for ending in ('labelIds', 'labelTrainIds', 'instanceIds', 'color'):
                label_map(root / f'gtFine/{split}/ulm/{split}_{stem}_gtFine_{ending}.png', [[0, 1], [1, 255]])


@layout(error='holds labels of several formats: coco, voc')
def two_formats(root):
    voc_folder(root)
    coco_file(root / 'labels.json', coco())


@layout(error='no labels that are read')
def images_alone(root):
    pictures(root)


@layout(error='unpack it')
def an_archive(root):
    text(root / 'data.zip', 'PK')


@layout(error='neither images nor labels')
def an_empty_folder(root):
    root.mkdir()


def read(root: Path) -> tuple[dict[str, list[tuple]], str]:
    """Return what is read of a layout in the form of :data:`OBJECTS`, and its notes.

    Nothing and a description stand for label maps and classes of images.
    """
    from mmssl.data.label_formats import read_labels

    labels = read_labels(root)
    if not labels.num_objects:
        return {}, f'{labels.format}, {len(labels)} images, classes {", ".join(labels.classes)}'
    content = {
        Path(image.name).stem: [(labels.classes[each.label], *each.box) for each in image.objects]
        for image in labels.images
    }
    return content, '; '.join(labels.notes)


def is_right(content: dict[str, list[tuple]], classes: tuple[str, ...] = CLASSES) -> bool:
    """Whether all images are there with their objects, and others have none."""
    if not content:
        return True
    expected = {stem: [each for each in objects if each[0] in classes] for stem, objects in OBJECTS.items()}
    return content == {**{stem: [] for stem in content}, **expected}


def main() -> int:
    """Write and read all layouts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('out', type=Path)
    out = parser.parse_args().out
    wrong = 0
    for name, (write, error) in LAYOUTS.items():
        write(out / name)
        try:
            content, notes = read(out / name)
            right = is_right(content, ('cat',) if 'one_class' in name else CLASSES)
            outcome = f'right {notes}' if right else f'WRONG {content}'
            failed = bool(error) or not right
        except ValueError as said:
            outcome = str(said)
            failed = not error or error not in outcome or '\n' in outcome
        wrong += failed
        print(f'{"!" if failed else " "} {name}: {outcome}')
    print(f'{len(LAYOUTS)} layouts, {wrong} neither read right nor refused in the line that was expected')
    return int(wrong > 0)


if __name__ == '__main__':
    sys.exit(main())
