"""``mmssl segment``: what it writes against the predictor, and what it refuses."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

from mmssl.apis.sam import load_sam
from mmssl.apis.segmenters import read_mask_prompt
from mmssl.cli import main
from mmssl.data.annotations import encode, output_names, unique
from mmssl.data.images import read_rgb
from mmssl.data.mask_datasets import CocoMasks
from mmssl.promptable import SamAutomaticMaskGenerator, SamPredictor, TiledMaskGenerator
from mmssl.visualization.promptable import draw_texts, overlay_masks, overlay_rles

SAM = """dict(
    type='mmssl.SAM',
    image_encoder=dict(
        type='mmssl.SAMImageEncoder', img_size=64, embed_dim=32, depth=2, num_heads=2, out_chans=32,
        window_size=3, global_attn_indexes=(1, )),
    mask_decoder=dict(transformer=dict(num_heads=4, mlp_dim=64), iou_head_hidden_dim=32))
"""
CONFIG = f"default_scope = 'mmpretrain'\nmodel = {SAM}"
LOOSE = (
    '--auto',
    '--points-per-side',
    4,
    '--pred-iou-thresh',
    0,
    '--stability-score-thresh',
    0,
    '--box-nms-thresh',
    0.9,
)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A config, its weights, and photographs of two sizes, two of one name."""
    folder = tmp_path_factory.mktemp('segment')
    (folder / 'sam.py').write_text(CONFIG)
    model = load_sam(str(folder / 'sam.py'), 'random')
    torch.manual_seed(1)
    with torch.no_grad():
        model.mask_decoder.iou_prediction_head.layers[-1].bias.add_(1.0)
        for parameter in model.mask_decoder.output_hypernetworks_mlps.parameters():
            parameter.mul_(2.0)
    torch.save(model.state_dict(), folder / 'sam.pth')
    for number, (name, size) in enumerate((('a/x.png', (80, 60)), ('b/x.png', (60, 90)))):
        path = folder / 'images' / name
        path.parent.mkdir(parents=True)
        pixels = np.random.default_rng(number).integers(0, 255, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(path)
    return folder


def segment(folder, *more, out, image='a/x.png', config='sam.py', checkpoint='sam.pth'):
    images = [folder / 'images' / name for name in ([image] if isinstance(image, str) else image)]
    return main(
        [
            'segment',
            *map(str, images),
            '--model',
            str(folder / config),
            '--checkpoint',
            str(folder / checkpoint),
            '--out',
            str(out),
            *map(str, more),
        ]
    )


def model_of(folder):
    return load_sam(str(folder / 'sam.py'), str(folder / 'sam.pth'))


def test_masks_are_those_of_the_predictor(folder, tmp_path, capsys):
    out = tmp_path / 'out'
    assert segment(folder, '--point', '30,20', '--point', '5,50,0', '--box', '10,5,70,50', out=out) == 0
    assert f'{out}: 1 masks of 1 images; file names are below {folder}/images/a' in capsys.readouterr().out
    predictor = SamPredictor(model_of(folder))
    pixels = read_rgb(folder / 'images/a/x.png')
    predictor.set_image(pixels)
    masks, ious, _ = predictor.predict(
        np.array([[30.0, 20.0], [5.0, 50.0]]),
        np.array([1, 0]),
        np.array([10.0, 5.0, 70.0, 50.0]),
        multimask_output=False,
    )
    assert masks[0].any()
    written = np.asarray(Image.open(out / 'masks/x/000.png'))
    assert np.array_equal(written, masks[0] * 255) and written.dtype == np.uint8
    coco = COCO(str(out / 'annotations.json'))
    (image,) = coco.loadImgs(coco.getImgIds())
    (annotation,) = coco.loadAnns(coco.getAnnIds())
    assert (image['file_name'], image['width'], image['height']) == ('x.png', 80, 60)
    assert (
        np.array_equal(coco.annToMask(annotation), masks[0])
        and annotation['area'] == masks[0].sum()
        and not annotation['iscrowd']
    )
    rows, columns = masks[0].any(1).nonzero()[0], masks[0].any(0).nonzero()[0]
    assert annotation['bbox'] == [columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]]
    assert (
        annotation['predicted_iou'] == pytest.approx(float(ious[0]))
        and annotation['mask_file'] == 'masks/x/000.png'
    )
    assert annotation['point_coords'] == [[30, 20], [5, 50]] and annotation['box'] == [10, 5, 70, 50]
    overlay = np.asarray(Image.open(out / 'overlays/x.png'))
    assert overlay.shape == (60, 80, 3) and (overlay != pixels).any()
    # what was written is data to learn from
    dataset = CocoMasks(
        data_root=str(out),
        ann_file='annotations.json',
        data_prefix=dict(img_path=str(folder / 'images/a')),
        pipeline=[],
    )
    assert np.array_equal(dataset.read_masks(dataset.get_data_info(0)), masks)


def test_one_point_is_ambiguous_and_every_box_an_object(folder, tmp_path):
    predictor = SamPredictor(model_of(folder))
    predictor.set_image(read_rgb(folder / 'images/a/x.png'))
    three, ious, _low = predictor.predict(np.array([[30.0, 20.0]]), np.array([1]), multimask_output=True)

    def written(name):
        return [
            np.asarray(Image.open(path)) > 0 for path in sorted((tmp_path / name / 'masks/x').glob('*.png'))
        ]

    segment(folder, '--point', '30,20', out=tmp_path / 'best')
    (best,) = written('best')
    assert np.array_equal(best, three[ious.argmax()])
    segment(folder, '--point', '30,20', '--multimask', out=tmp_path / 'all')
    assert np.array_equal(written('all'), [mask for mask in three if mask.any()])
    assert Image.open(tmp_path / 'all/overlays/x.png').width > 80 * len(written('all'))
    segment(
        folder,
        '--box',
        '10,5,70,50',
        '--box',
        '0,0,30,30',
        '--separate',
        '--point',
        '30,20',
        out=tmp_path / 'boxes',
    )
    content = json.loads((tmp_path / 'boxes/annotations.json').read_text())
    assert [(item['object'], 'box' in item) for item in content['annotations']] == [
        (1, False),
        (2, True),
        (3, True),
    ]
    assert np.array_equal(written('boxes')[0], best) and not np.array_equal(
        written('boxes')[1], written('boxes')[2]
    )
    # the same folder again, with fewer masks
    assert segment(folder, '--box', '10,5,70,50', '--force', out=tmp_path / 'boxes') == 0
    assert len(written('boxes')) == 1


def test_a_mask_as_a_prompt(folder, tmp_path):
    model = model_of(folder)
    side = model.prompt_encoder.mask_input_size[0]
    mask = np.zeros((60, 80), np.uint8)
    mask[20:40, 8:48] = 255
    Image.fromarray(mask).save(tmp_path / 'mask.png')
    logits = read_mask_prompt(str(tmp_path / 'mask.png'), model, (60, 80))
    assert logits.shape == (1, side, side) and side == 16
    assert (logits > 0).sum() == 32 and np.isclose(np.abs(logits).max(), np.log(0.999 / 0.001), atol=1e-3)
    assert (logits[0, 12:] < -6).all()  # below the image
    np.save(tmp_path / 'mask.npy', logits)
    for name, form in (('picture', 'png'), ('array', 'npy')):
        assert (
            segment(folder, '--point', '30,20', '--mask', tmp_path / f'mask.{form}', out=tmp_path / name) == 0
        )
    predictor = SamPredictor(model)
    predictor.set_image(read_rgb(folder / 'images/a/x.png'))
    expected = predictor.predict(
        np.array([[30.0, 20.0]]), np.array([1]), mask_input=logits, multimask_output=False
    )[0][0]
    for name in ('picture', 'array'):
        assert np.array_equal(np.asarray(Image.open(tmp_path / name / 'masks/x/000.png')) > 0, expected)
    assert segment(folder, '--mask', tmp_path / 'mask.png', out=tmp_path / 'alone') == 0


def test_everything_in_images_of_one_name(folder, tmp_path, warm_cli):
    done = warm_cli(
        'segment',
        folder / 'images',
        folder / 'images/a/x.png',
        '--model',
        folder / 'sam.py',
        '--checkpoint',
        folder / 'sam.pth',
        '--out',
        tmp_path / 'out',
        '--progress',
        *LOOSE,
    )
    assert done.returncode == 0, done.stderr
    assert 'segmenting: 100%' in done.stderr and '2/2' in done.stderr
    coco = COCO(str(tmp_path / 'out/annotations.json'))
    assert [image['file_name'] for image in coco.loadImgs(coco.getImgIds())] == ['a/x.png', 'b/x.png']
    settings = dict(points_per_side=4, pred_iou_thresh=0, stability_score_thresh=0, box_nms_thresh=0.9)
    generator = SamAutomaticMaskGenerator(model_of(folder), **settings)
    for number, name in ((1, 'a/x'), (2, 'b/x')):
        expected = generator.generate(read_rgb(folder / f'images/{name}.png'))
        matches = coco.loadAnns(coco.getAnnIds(imgIds=[number]))
        files = sorted((tmp_path / 'out/masks' / name).glob('*.png'))
        assert len(matches) == len(expected) == len(files) > 1
        assert sorted(item['area'] for item in matches) == sorted(item['area'] for item in expected)
        assert [item['predicted_iou'] for item in matches] == sorted(
            (item['predicted_iou'] for item in expected), reverse=True
        )
        assert np.array_equal(np.asarray(Image.open(files[0])) > 0, coco.annToMask(matches[0]))
        assert (tmp_path / f'out/overlays/{name}.png').is_file()


def test_large_images_by_tiles_and_embeddings_on_disk(folder, tmp_path):
    for number in range(2):
        assert (
            segment(
                folder, *LOOSE, '--tile', 48, '--cache-dir', tmp_path / 'kept', out=tmp_path / str(number)
            )
            == 0
        )
    item, other = (
        json.loads((tmp_path / name / 'annotations.json').read_text())['annotations'] for name in '01'
    )
    remaining = [path for path in (tmp_path / 'kept').rglob('*') if path.is_file()]
    pixels = read_rgb(folder / 'images/a/x.png')
    generator = SamAutomaticMaskGenerator(
        model_of(folder),
        4,
        pred_iou_thresh=0,
        stability_score_thresh=0,
        box_nms_thresh=0.9,
        output_mode='coco_rle',
    )
    expected = TiledMaskGenerator(generator, 48).generate(pixels)
    assert (
        item == other and len(remaining) == 4 and len(item) == len(expected) > 0
    )  # 60x80 in steps of 36 at most: 2 by 2 tiles
    codes, required = (
        sorted(record['segmentation']['counts'] for record in records) for records in (item, expected)
    )
    assert codes == required


def test_a_damaged_file_is_named_and_left_out(folder, tmp_path, capsys):
    images = tmp_path / 'images'
    images.mkdir()
    Image.open(folder / 'images/a/x.png').save(images / 'good.jpg')
    whole = (images / 'good.jpg').read_bytes()
    (images / 'cut.jpg').write_bytes(whole[:-100])
    assert segment(folder, '--point', '30,20', image=[images], out=tmp_path / 'out') == 1
    assert 'left out: ' in (err := capsys.readouterr().err) and 'cut.jpg: undecodable' in err
    content = json.loads((tmp_path / 'out/annotations.json').read_text())
    assert [image['file_name'] for image in content['images']] == ['good.jpg'] and not (
        tmp_path / 'out/masks/cut'
    ).exists()


@pytest.mark.parametrize(
    'arguments, message',
    [
        (
            ['--point', '500,20'],
            r'--point 500,20 is outside of .*x.png, which is 80x60 pixels \(width x height\)',
        ),
        (['--point', '30'], "--point '30' is not x,y"),
        (['--point', '30,nan'], "--point '30,nan' is not x,y"),
        (['--point', '30,20,2'], r'the label is 1 \(on the object\) or 0 \(beside it\), not 2'),
        (['--point', '30,20,0'], '--point 30,20,0 lies beside an object; add a point on it'),
        (['--box', '1,2,3'], "--box '1,2,3' is not x1,y1,x2,y2"),
        (['--box', '30,20,10,40'], '--box 30,20,10,40 has no area'),
        (['--box', '30,20,81,40'], '--box 30,20,81,40 is outside of'),
        (
            ['--box', '1,1,9,9', '--box', '2,2,9,9', '--point', '3,3'],
            '1 points and 2 boxes: which box do the points belong to',
        ),
        ([], 'nothing to segment by: give --point'),
        (['--auto', '--point', '3,3'], '--auto segments everything and takes no prompts'),
        (
            ['--point', '3,3', '--points-per-side', '8'],
            '--points-per-side is for automatic masks; add --auto',
        ),
        (['--auto', '--points-per-side', '0'], '--points-per-side 0 must be at least 1'),
        (['--auto', '--stability-score-thresh', '2'], '--stability-score-thresh 2.0 must be from 0 to 1'),
        (['--point', '3,3', '--mask', 'none.png'], '--mask none.png does not exist'),
        (['--point', '3,3', '--device', 'tpu0'], "unknown device 'tpu0'"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(folder, tmp_path, capsys, arguments, message):
    assert segment(folder, *arguments, out=tmp_path / 'out') == 1
    err = capsys.readouterr().err
    line, hint = err.strip().splitlines()
    assert line.startswith('mmssl segment: error: ') and hint.startswith('(MMSSL_DEBUG')
    assert re.search(message, line), line
    assert not (tmp_path / 'out').exists()


def test_files_that_do_not_fit(folder, tmp_path, capsys):
    def refused(*arguments, **changes):
        assert segment(folder, *arguments, out=tmp_path / 'out', **changes) == 1
        line, _ = capsys.readouterr().err.strip().splitlines()
        assert not (tmp_path / 'out').exists()
        return line

    point = '--point', '30,20'
    assert 'y.png does not exist; did you mean' in refused(*point, image='a/y.png')
    (folder / 'text.png').write_text('no image')
    assert 'text.png: no known image format' in refused(*point, image='../text.png')
    assert 'none.pth does not exist' in refused(*point, checkpoint='none.pth')
    assert "is none of vit_b, vit_l, vit_h, vit_t, and no config; did you mean 'vit_" in refused(
        *point, '--model', 'vit_x'
    )
    weights = torch.load(folder / 'sam.pth', weights_only=True)
    columns_count = {**weights, 'image_encoder.pos_embed': torch.zeros(1, 4, 4, 1024)}
    torch.save(columns_count, tmp_path / 'wide.pth')
    line = refused(*point, checkpoint=tmp_path / 'wide.pth')
    assert (
        'does not fit the model ' in line
        and 'of another shape (image_encoder.pos_embed 1x4x4x1024 for 1x4x4x32)' in line
    )
    assert 'it looks like a checkpoint of the model vit_l' in line
    del weights['mask_decoder.iou_token.weight']
    torch.save({**weights, 'more': torch.zeros(1)}, tmp_path / 'less.pth')
    line = refused(*point, checkpoint=tmp_path / 'less.pth')
    assert (
        '1 weights missing (mask_decoder.iou_token.weight), 1 weights unknown (more); give the model that it '
        'belongs to' in line
    )
    torch.save({'vision_encoder.pos_embed': torch.zeros(1)}, tmp_path / 'hf.pth')
    assert 'mmssl convert sam-hf' in refused(*point, checkpoint=tmp_path / 'hf.pth')
    (tmp_path / 'other.py').write_text("model = dict(type='ImageClassifier')")
    assert 'its model is no mmssl.SAM and contains none' in refused(*point, config=tmp_path / 'other.py')
    Image.fromarray(np.full((5, 5), 255, np.uint8)).save(tmp_path / 'small.png')
    assert segment(folder, '--mask', tmp_path / 'small.png', out=tmp_path / 'out') == 1
    assert 'small.png is 5x5 and the image 80x60 pixels' in capsys.readouterr().err
    np.save(tmp_path / 'bad.npy', np.zeros((3, 3)))
    assert segment(folder, '--mask', tmp_path / 'bad.npy', out=tmp_path / 'out') == 1
    assert 'logits of this model are float of shape (1, 16, 16)' in capsys.readouterr().err
    assert 'is of one image, not of 2' in refused(
        *point, '--mask', tmp_path / 'small.png', image=['a/x.png', 'b/x.png']
    )
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full/annotations.json').write_text('{}')
    assert segment(folder, *point, out=tmp_path / 'full') == 1
    assert (
        '--force replaces it' in capsys.readouterr().err
        and (tmp_path / 'full/annotations.json').read_text() == '{}'
    )


def test_models_of_a_training(folder, tmp_path):
    """Checkpoints of InteractiveSAM, with and without low-rank updates, and of a detector with a SAM."""
    from mmssl.promptable import InteractiveSAM

    plain = model_of(folder)
    (tmp_path / 'train.py').write_text(
        "default_scope = 'mmpretrain'\n"
        f"model = dict(type='mmssl.InteractiveSAM', tune='lora', lora=dict(rank=2), model={SAM})"
    )
    learner = InteractiveSAM(model_of(folder), tune='lora', lora=dict(rank=2))
    with torch.no_grad():
        for name, parameter in learner.named_parameters():
            if name.endswith(('lora_a', 'lora_b')):
                parameter.normal_()
    torch.save(dict(state_dict=learner.state_dict(), meta={}), tmp_path / 'train.pth')
    torch.save(learner.export_state_dict(), tmp_path / 'export.pth')
    image = torch.randn(1, 3, 64, 64)
    expected = learner.eval().image_encoder(image)
    assert not torch.allclose(expected, plain.image_encoder(image), atol=1e-3)
    for config in (tmp_path / 'train.py', folder / 'sam.py'):
        loaded = load_sam(str(config), str(tmp_path / 'export.pth'))
        assert torch.allclose(loaded.image_encoder(image), expected, atol=1e-4)
    loaded = load_sam(str(tmp_path / 'train.py'), str(tmp_path / 'train.pth'))
    assert torch.allclose(loaded.image_encoder(image), expected, atol=1e-4) and set(
        loaded.state_dict()
    ) == set(plain.state_dict())
    with pytest.raises(
        ValueError, match='contains low-rank updates; give the config that trained them as the model'
    ):
        load_sam(str(folder / 'sam.py'), str(tmp_path / 'train.pth'))
    torch.save({f'sam.{name}': value for name, value in plain.state_dict().items()}, tmp_path / 'whole.pth')
    loaded = load_sam(str(folder / 'sam.py'), str(tmp_path / 'whole.pth'))
    assert torch.equal(loaded.image_encoder(image), plain.image_encoder(image))


def test_names_of_results(tmp_path):
    def names(*paths):
        for path in paths:
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).touch()
        root, matches = output_names([tmp_path / path for path in paths])
        return root.relative_to(tmp_path.resolve()).as_posix(), matches

    assert names('a/1.png', 'b/2.jpg') == ('.', ['1', '2'])
    assert names('a/1.png', 'a/2.jpg') == ('a', ['1', '2'])
    assert names('a/1.png', 'b/1.png') == ('.', ['a/1', 'b/1'])
    assert names('a/1.png', 'a/1.jpg') == ('a', ['1.png', '1.jpg'])
    assert unique([tmp_path / 'a/1.png', tmp_path / 'a/1.jpg', tmp_path / 'b/../a/1.png']) == [
        tmp_path / 'a/1.png',
        tmp_path / 'a/1.jpg',
    ]


def test_run_lengths_over_an_image():
    image, masks = np.full((20, 30, 3), 100, np.uint8), np.zeros((3, 20, 30), bool)
    masks[0, 8:12, 8:12] = masks[1, 4:16, 4:24] = True
    codes = [encode(mask)['segmentation'] for mask in masks]
    assert np.array_equal(overlay_rles(image, codes), overlay_masks(image, masks))
    assert overlay_rles(image, codes)[8, 8].tolist() != [100, 100, 100] and np.array_equal(
        overlay_rles(image, []), image
    )
    with pytest.raises(ValueError, match='run lengths of 20x30 over an image of 30x20'):
        overlay_rles(image.transpose(1, 0, 2), codes)
    drawn = draw_texts(image, [(15, 10)], [7])
    assert (
        (drawn[4:16, 10:20] > 200).any()
        and (drawn[4:16, 10:20] < 20).any()
        and np.array_equal(drawn[:, 25:], image[:, 25:])
    )
