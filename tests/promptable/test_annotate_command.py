"""``mmssl annotate``: files in SA-1B's format, interrupted runs, several processes, and training on them."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmssl.apis import annotate_workers, output_folder, processes
from mmssl.apis.sam import load_sam
from mmssl.cli import main
from mmssl.data import annotations
from mmssl.data.images import read_rgb
from mmssl.data.mask_datasets import SA1BDataset, decode_segment
from mmssl.promptable import InteractiveSAM, SamAutomaticMaskGenerator

CONFIG = """
default_scope = 'mmpretrain'
model = dict(
    type='mmssl.SAM',
    image_encoder=dict(
        type='mmssl.SAMImageEncoder', img_size=64, embed_dim=32, depth=2, num_heads=2, out_chans=32,
        window_size=3,
        global_attn_indexes=(1, )),
    mask_decoder=dict(transformer=dict(num_heads=4, mlp_dim=64), iou_head_hidden_dim=32))
"""
LOOSE = dict(points_per_side=2, pred_iou_thresh=0.0, stability_score_thresh=0.0, box_nms_thresh=1.0)
KEYS = {'id', 'bbox', 'area', 'segmentation', 'predicted_iou', 'stability_score', 'point_coords', 'crop_box'}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A config, its weights, and four photographs in two folders."""
    folder = tmp_path_factory.mktemp('annotate')
    (folder / 'sam.py').write_text(CONFIG)
    model = load_sam(str(folder / 'sam.py'), 'random')
    torch.manual_seed(1)
    with torch.no_grad():
        model.mask_decoder.iou_prediction_head.layers[-1].bias.add_(1.0)
        for parameter in model.mask_decoder.output_hypernetworks_mlps.parameters():
            parameter.mul_(2.0)
    torch.save(model.state_dict(), folder / 'sam.pth')
    for number in range(4):
        path = folder / 'images' / 'ab'[number % 2] / f'photo_{number}.jpg'
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((80, 60), Image.Resampling.BICUBIC).save(path)
    return folder


def annotate(folder, out, *more, images=None):
    loose = [part for name, value in LOOSE.items() for part in (f'--{name.replace("_", "-")}', value)]
    return main(
        [
            'annotate',
            *map(
                str,
                [
                    images or folder / 'images',
                    '--out',
                    out,
                    '--model',
                    folder / 'sam.py',
                    '--checkpoint',
                    folder / 'sam.pth',
                    *loose,
                    *more,
                ],
            ),
        ]
    )


@pytest.fixture(scope='module')
def annotated(folder):
    """Masks of all four, once."""
    assert annotate(folder, folder / 'masks', '--overlay', folder / 'pictures') == 0
    return folder / 'masks'


def test_files_have_the_layout_of_sa_1b(folder, annotated):
    files = sorted(path.relative_to(annotated).as_posix() for path in annotated.rglob('*.json'))
    assert files == ['a/photo_0.json', 'a/photo_2.json', 'b/photo_1.json', 'b/photo_3.json']
    model = load_sam(str(folder / 'sam.py'), str(folder / 'sam.pth'))
    generator, numbers = SamAutomaticMaskGenerator(model, **LOOSE), set()
    for name in files:
        content = json.loads((annotated / name).read_text())
        image = content['image']
        assert set(content) == {'image', 'annotations'} and set(image) == {
            'image_id',
            'width',
            'height',
            'file_name',
        }
        assert (image['width'], image['height'], image['file_name']) == (80, 60, f'{Path(name).stem}.jpg')
        picture = (folder / 'images' / name).with_suffix('.jpg')
        expected = generator.generate(read_rgb(picture))
        assert len(content['annotations']) == len(expected) > 2
        for number, (matches, record) in enumerate(zip(content['annotations'], expected, strict=True), 1):
            assert set(matches) == KEYS and matches['id'] == image['image_id'] * 10_000 + number < 2**53
            assert np.array_equal(decode_segment(matches['segmentation'], (60, 80)), record['segmentation'])
            for key in KEYS - {'id', 'segmentation'}:
                assert matches[key] == record[key], key
        numbers.add(image['image_id'])
        drawn = np.asarray(Image.open((folder / 'pictures' / name).with_suffix('.png')))
        assert drawn.shape == (60, 80, 3) and (drawn != read_rgb(picture)).any()
    assert len(numbers) == 4
    assert not [path for path in annotated.rglob('*') if path.suffix in ('.part', '.mmssl-tmp')]


def test_what_is_done_is_skipped_and_what_is_cut_off_done_again(folder, annotated, capsys):
    remaining, cut, gone = (
        annotated / name for name in ('a/photo_0.json', 'a/photo_2.json', 'b/photo_1.json')
    )
    whole = {path: path.read_bytes() for path in (remaining, cut, gone)}
    content = json.loads(whole[remaining])
    content['annotations'][0]['kept'] = False
    remaining.write_text(json.dumps(content))
    cut.write_bytes(whole[cut][:-30])
    gone.unlink()
    assert annotate(folder, annotated) == 0
    out = capsys.readouterr().out
    masks = sum(len(json.loads(whole[path])['annotations']) for path in (cut, gone))
    assert out == f'{annotated}: {masks} masks of 2 images, 2 images were done before and skipped\n'
    assert (
        cut.read_bytes() == whole[cut]
        and gone.read_bytes() == whole[gone]
        and json.loads(remaining.read_text()) == content
    )
    broken = annotated / 'a/photo_2.json.broken'
    assert broken.read_bytes() == whole[cut][:-30]
    broken.unlink()
    remaining.write_text('{"version": "of another tool"}')
    assert annotate(folder, annotated) == 1
    assert (
        "photo_0.json is there and is not of SA-1B's layout" in capsys.readouterr().err
        and 'another tool' in remaining.read_text()
    )
    remaining.write_bytes(whole[remaining])
    assert annotate(folder, annotated) == 0
    assert (
        capsys.readouterr().out
        == f'{annotated}: 0 masks of 0 images, 4 images were done before and skipped\n'
    )


def test_other_settings_and_another_run_are_refused(folder, annotated, capsys):
    assert annotate(folder, annotated, '--pred-iou-thresh', 0.5) == 1
    assert (
        f'{annotated} was started with pred_iou_thresh=0.0, not pred_iou_thresh=0.5; give the same'
        in capsys.readouterr().err
    )
    assert annotate(folder, annotated, '--crop-n-layers', 1) == 1
    assert 'started with the default crop_n_layers, not crop_n_layers=1' in capsys.readouterr().err
    for running, refused in (
        ((1, 1), (1, 1)),
        ((1, 1), (1, 2)),
        ((1, 2), (1, 1)),
        ((1, 2), (1, 2)),
        ((1, 2), (2, 2)),
    ):
        with output_folder.locked(annotated, 'annotate', running):
            status = annotate(folder, annotated, '--part', f'{refused[0]}/{refused[1]}')
        assert status == int(running == refused or 1 in (running[1], refused[1])), (running, refused)
        assert status == 0 or 'another mmssl annotate writes into' in capsys.readouterr().err


def test_parts_share_nothing_and_miss_nothing(folder, tmp_path):
    for number in range(40):
        (tmp_path / f'{number}.png').touch()
    jobs = [annotations.plan(tmp_path, tmp_path / 'out', (part, 3)) for part in (1, 2, 3)]
    names = [job.name for part in jobs for job in part]
    assert len(names) == len(set(names)) == 40 and all(len(part) > 5 for part in jobs)
    (tmp_path / '40.png').touch()  # who comes later moves nobody
    assert set(jobs[0]) <= set(annotations.plan(tmp_path, tmp_path / 'out', (1, 3)))


def test_processes_write_every_file_once(folder, annotated, tmp_path):
    recipe = annotate_workers.Recipe(
        str(folder / 'sam.py'), str(folder / 'sam.pth'), (), False, LOOSE, 'cpu', None
    )
    images = tmp_path / 'images'
    for number in range(3):
        for path in (folder / 'images').rglob('*.jpg'):
            (images / str(number)).mkdir(parents=True, exist_ok=True)
            os.link(path, images / str(number) / path.name)
    jobs = annotations.plan(images, tmp_path / 'out')
    (images / '1/photo_2.jpg').unlink()
    (images / '1/photo_2.jpg').write_bytes(b'no image')
    results = list(processes.run_in_processes(recipe, jobs, 2, start_method='fork'))
    bad = [reason for _, _, reason in results if reason]
    assert len(results) == 12 and len(bad) == 1 and '1/photo_2.jpg: no known image format' in bad[0]
    files = list((tmp_path / 'out').rglob('*'))
    assert (
        len([file for file in files if file.suffix == '.json']) == 11
        and len([file for file in files if file.is_file()]) == 11
    )
    for name in ('a/photo_0', 'b/photo_1'):
        item, other = (
            json.loads((root / f'{path}.json').read_text())['annotations']
            for root, path in ((annotated, name), (tmp_path / 'out', f'2/{Path(name).name}'))
        )
        assert [record['segmentation'] for record in item] == [record['segmentation'] for record in other]


def _die(recipe, numbers, threads):
    os._exit(9)


def test_a_process_that_dies_is_named(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, '_start', _die)
    jobs = annotations.plan(folder / 'images', tmp_path)
    with pytest.raises(
        ChildProcessError,
        match='a process died, .* and the same command continues from there. Fewer than 2 --workers',
    ):
        list(processes.run_in_processes(None, jobs, 2, start_method='fork'))


def test_a_bad_image_is_named_and_left_out(folder, tmp_path, capsys):
    images = tmp_path / 'images'
    images.mkdir()
    (images / 'good.jpg').write_bytes((folder / 'images/a/photo_0.jpg').read_bytes())
    (images / 'bad.jpg').write_bytes(b'no image')
    for times in range(2):
        assert annotate(folder, images, '--progress', images=images) == 1
        said = capsys.readouterr()
        assert (
            'left out: ' in said.err
            and 'bad.jpg: no known image format' in said.err
            and 'annotating: 100%' in said.err
        )
        assert ('1 could not be read' in said.out) and ('1 images were done before' in said.out) == bool(
            times
        )
    assert sorted(path.name for path in images.glob('[!.]*')) == ['bad.jpg', 'good.jpg', 'good.json']


def test_arguments_that_cannot_be(folder, tmp_path, capsys):
    def refused(*arguments, **changes):
        assert annotate(folder, tmp_path / 'out', *arguments, **changes) == 1
        assert not (tmp_path / 'out').exists()
        return capsys.readouterr().err

    assert '--workers 0 must be at least 1' in refused('--workers', 0)
    assert '--part 3/2 is not K/N' in refused('--part', '3/2')
    assert 'none does not exist' in refused(images=tmp_path / 'none')
    (tmp_path / 'empty').mkdir()
    assert 'empty holds no image (.jpg,' in refused(images=tmp_path / 'empty')
    for ending in ('png', 'jpg'):
        (tmp_path / f'empty/x.{ending}').touch()
    assert 'x.jpg and ' in (err := refused(images=tmp_path / 'empty')) and 'would both go to' in err
    assert 'is inside the folder of images' in refused('--overlay', folder / 'images/out')
    assert 'does not exist' in refused('--checkpoint', 'none.pth')
    assert '--min-mask-region-area -1 must be at least 0' in refused('--min-mask-region-area=-1')


def dataset(folder, masks, pipeline=()):
    return SA1BDataset(
        data_root=str(folder),
        data_prefix=dict(img_path='images', json_path=str(masks)),
        pipeline=list(pipeline),
    )


def test_what_a_person_kept_is_learnt_from(folder, annotated, tmp_path):
    expected = {}
    for path in sorted(annotated.rglob('*.json')):
        content = json.loads(path.read_text())
        records = content['annotations']
        if path.stem == 'photo_0':
            records[1]['kept'], records[2]['kept'] = False, True
        elif path.stem == 'photo_1':
            del records[0]
        expected[path.stem] = [
            decode_segment(record['segmentation'], (60, 80)) for record in records if record.get('kept', True)
        ]
        target = tmp_path / path.relative_to(annotated)
        target.parent.mkdir(exist_ok=True)
        target.write_text(json.dumps(content, indent=1))
    data = dataset(folder, tmp_path)
    assert len(data) == 4
    for number in range(4):
        info = data.get_data_info(number)
        assert info['img_path'] == str(
            folder / 'images' / Path(info['json_path']).relative_to(tmp_path).with_suffix('.jpg')
        )
        masks = data.read_masks(info)
        assert np.array_equal(masks, expected[info['img_id']])
    pipeline = [
        dict(type='mmssl.LoadImage'),
        dict(type='mmssl.LoadMasks', max_masks=4),
        dict(type='mmssl.ResizeLongest', scale=64),
        dict(type='mmssl.PackPrompts'),
    ]
    batch = [dataset(folder, tmp_path, pipeline)[number] for number in range(2)]
    torch.manual_seed(0)
    model = InteractiveSAM(
        load_sam(str(folder / 'sam.py'), str(folder / 'sam.pth')),
        rounds=3,
        silent_rounds=0,
        data_preprocessor=dict(
            type='mmengine.ImgDataPreprocessor',
            mean=[123.675, 116.28, 103.53],
            std=[58.395, 57.12, 57.375],
            bgr_to_rgb=True,
            pad_size_divisor=64,
        ),
    ).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    tokens = model.mask_decoder.mask_tokens.weight
    before = tokens.detach().clone()
    prepared = model.data_preprocessor(
        {key: [part[key] for part in batch] for key in ('inputs', 'data_samples')}
    )
    losses = model(**prepared, mode='loss')
    sum(losses[name] for name in ('loss_focal', 'loss_dice', 'loss_iou')).backward()
    optimizer.step()
    assert not torch.equal(before, tokens) and bool(torch.isfinite(tokens).all())


def test_masks_of_images_that_are_not_there(folder, tmp_path):
    (tmp_path / 'lost.json').write_text('{}')
    with pytest.raises(FileNotFoundError, match=r'lost.json has no image in .*images \(lost.jpg'):
        dataset(folder, tmp_path)
    (tmp_path / 'none').mkdir()
    with pytest.raises(ValueError, match='none holds no JSON file$'):
        dataset(folder, tmp_path / 'none')
    with pytest.raises(FileNotFoundError, match='gone does not exist'):
        dataset(folder, tmp_path / 'gone')
