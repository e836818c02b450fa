"""``mmssl finetune`` on real images: the config that is written is what runs, for every task."""

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from mmssl.apis import finetune, get_model
from mmssl.apis.finetune_backbones import backbone_for, pretraining_config
from mmssl.apis.finetune_config import choose_budget
from mmssl.apis.models import scope_of
from mmssl.apis.training import train, training_arguments
from mmssl.checkpoint import load_file, save_file
from mmssl.cli import main
from mmssl.config.load import load_config
from mmssl.errors import CheckpointError, LabelError, UserError
from mmssl.promptable import SamPredictor, build_sam
from mmssl.registry import MODELS, build

pytestmark = pytest.mark.slow

NARROW = 'tutorial/pretrain_moco-v2_resnet18-narrow_1xb64-coslr-40e_pool'
VIT = """
default_scope = 'mmpretrain'
model = dict(type='mmssl.MAE', backbone=dict(type='mmssl.MAEViT', img_size=32, patch_size=8, mask_ratio=0.75,
    arch=dict(embed_dims=16, num_layers=4, num_heads=2, feedforward_channels=32)))
"""
BEIT = VIT.replace('mmssl.MAEViT', 'mmssl.BEiTViT').replace(', mask_ratio=0.75', '')
SWIN = """
model = dict(type='mmssl.MoBY', backbone=dict(type='mmpretrain.SwinTransformer', img_size=32, window_size=4,
    arch=dict(embed_dims=16, depths=[1, 1, 1, 1], num_heads=[2, 2, 2, 2])))
"""
# no processes, and no validation, which needs a second
FAST = (
    'default_hooks.logger.interval=1',
    'train_dataloader.num_workers=0',
    'train_dataloader.persistent_workers=False',
    'val_cfg=None',
    'val_dataloader=None',
    'val_evaluator=None',
)
FEW_PROPOSALS = (
    'model.train_cfg.rpn_proposal.max_per_img=20',
    'model.train_cfg.rcnn.sampler.num=16',
    'model.rpn_head.feat_channels=16',
)

FEW_MASKS = (
    'model.train_cfg.rpn_proposal.nms_pre=50',
    'model.test_cfg.rpn.max_per_img=20',
    'model.test_cfg.rcnn.max_per_img=3',
    'model.roi_head.mask_head.num_convs=1',
    'model.roi_head.bbox_head.fc_out_channels=16',
)


@pytest.fixture(scope='module')
def work(tmp_path_factory, data_root):
    """A few images of each data set, and pre-trained weights of a narrow ResNet-18."""
    folder = tmp_path_factory.mktemp('finetune')
    for index in range(10):
        name = f'BloodImage_{index:05d}'
        for source in (f'JPEGImages/{name}.jpg', f'Annotations/{name}.xml'):
            (folder / 'cells' / source).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(data_root / 'bccd' / source, folder / 'cells' / source)
    for split in ('train', 'val'):
        for image in sorted((data_root / f'camvid/images/{split}').iterdir())[:4]:
            for source in (f'images/{split}/{image.name}', f'labels/{split}/{image.stem}.png'):
                (folder / 'streets' / source).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(data_root / 'camvid' / source, folder / 'streets' / source)
        for wnid in sorted((data_root / f'imagenette/{split}').iterdir())[:2]:
            (folder / 'things' / split / wnid.name).mkdir(parents=True)
            for image in sorted(wnid.iterdir())[:4]:
                shutil.copy(image, folder / 'things' / split / wnid.name)
    cfg = load_config(NARROW, ['model.backbone.base_channels=8', 'model.backbone.stem_channels=8',
                               'model.neck.in_channels=64'])  # fmt: skip
    torch.manual_seed(3)
    model = get_model(cfg)
    save_file({'state_dict': model.state_dict(), 'meta': {'cfg': cfg.pretty_text}}, folder / 'moco.pth')
    for name, text in (('vit', VIT), ('beit', BEIT), ('swin', SWIN)):
        (folder / f'{name}.py').write_text(text)
    content = json.loads((data_root / 'coco_mini/annotations/instances_train2017.json').read_text())
    content['images'] = content['images'][:6]
    ids = {image['id'] for image in content['images']}
    content['annotations'] = [each for each in content['annotations'] if each['image_id'] in ids]
    (folder / 'shapes').mkdir()
    (folder / 'shapes/labels.json').write_text(json.dumps(content))
    for image in content['images']:
        shutil.copy(data_root / 'coco_mini/train2017' / image['file_name'], folder / 'shapes')
    return folder


def losses(folder):
    """Loss of every iteration of a run."""
    lines = [line for log in folder.glob('*/vis_data/*.json') for line in log.read_text().splitlines()]
    entries = map(json.loads, lines)
    return {entry['step']: entry['loss'] for entry in entries if 'loss' in entry}


def quiet(*arguments, **options):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return finetune(*arguments, **options)


def losses_again(config, options, work_dir):
    """Losses of ``mmssl train`` with a written config."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        train(training_arguments(config, cfg_options=list(options), work_dir=str(work_dir)))
    return losses(work_dir)


def test_the_command_and_train_of_its_config_have_the_same_losses(work, tmp_path, capsys):
    run = tmp_path / 'run'
    options = [*FAST, *FEW_PROPOSALS]
    arguments = ['finetune', work / 'moco.pth', '--task', 'detect', '--data', work / 'cells',
                 '--work-dir', run, '--iters', 3, '--batch-size', 2, '--size', 160,
                 '--cfg-options', *options]  # fmt: skip
    assert main([*map(str, arguments)]) == 0
    said = capsys.readouterr().out
    assert 'PASCAL VOC (10 XML files)' in said and '3 classes: Platelets, RBC, WBC' in said
    assert 'for validation, by a hash of the file name' in said and '3 steps of 2 images' in said
    text = (run / 'config.py').read_text()
    assert text.startswith('# R-FCN for 3 classes on the backbone of moco.pth, written by `mmssl finetune`')
    assert 20 <= len(text.splitlines()) <= 50 and max(map(len, text.splitlines())) < 300
    assert len((run / 'train.txt').read_text().splitlines()) + 2 == 10
    assert (
        main(
            [
                'train',
                str(run / 'config.py'),
                '--work-dir',
                str(tmp_path / 'again'),
                '--cfg-options',
                *options,
            ]
        )
        == 0
    )
    assert len(losses(run)) == 3 and losses(run) == losses(tmp_path / 'again')
    assert (run / 'config.py').read_text() == text and (run / 'config_whole.py').is_file()


def test_segmentation_from_a_vit_in_python(work, tmp_path):
    tuned = quiet(
        'random', 'semantic', work / 'streets', tmp_path, backbone_config=work / 'vit.py',
        iters=2, batch_size=2, size=96, ignore=(11,), cfg_options=FAST,
    )  # fmt: skip
    assert tuned.config == str(tmp_path / 'config.py') and not tuned.model.training
    assert len(tuned.inferencer.classes) == 11
    image = next((work / 'streets/images/val').iterdir())
    (result,) = tuned.inferencer(image)
    assert result['pred_sem_seg'].shape == (360, 480)
    assert len(losses(tmp_path)) == 2
    assert losses_again(tuned.config, FAST, tmp_path / 'again') == losses(tmp_path)


@pytest.mark.parametrize('freeze', [False, True])
def test_classification(work, tmp_path, freeze):
    tuned = quiet(
        work / 'moco.pth', 'classify', work / 'things', tmp_path,
        iters=2, batch_size=2, size=64, freeze=freeze, cfg_options=FAST,
    )  # fmt: skip
    start = load_file(work / 'moco.pth')['state_dict']
    changed = [
        name
        for name, value in tuned.model.state_dict().items()
        if name.startswith('backbone.') and not torch.equal(value.cpu(), start[name])
    ]
    assert bool(changed) is not freeze
    if freeze:
        assert losses_again(tuned.config, FAST, tmp_path / 'again') == losses(tmp_path)
    (result,) = tuned.inferencer(next((work / 'things/val').rglob('*.JPEG')))
    assert result['pred_class'] in sorted(path.name for path in (work / 'things/val').iterdir())


@pytest.mark.parametrize('backbone', ['vit.py', 'swin.py'])
def test_masks_from_transformers_that_return_to_their_losses(work, tmp_path, backbone):
    options = [*FAST, *FEW_PROPOSALS, *FEW_MASKS]
    tuned = quiet(
        'random', 'instance', work / 'shapes', tmp_path, backbone_config=work / backbone,
        iters=2, batch_size=2, size=96, cfg_options=options,
    )  # fmt: skip
    assert len(losses(tmp_path)) == 2
    if backbone == 'vit.py':
        assert losses_again(tuned.config, options, tmp_path / 'again') == losses(tmp_path)
    assert tuned.inferencer(next((work / 'shapes').glob('*.jpg')))[0]['masks'] is not None


def test_masks_from_boxes_by_updates_of_segment_anything(work, tmp_path):
    cfg = load_config('smoke/sam')
    torch.manual_seed(3)
    start = get_model(cfg).state_dict()
    save_file({'state_dict': start, 'meta': {'cfg': cfg.pretty_text}}, tmp_path / 'start.pth')
    options = [*FAST, 'optim_wrapper.optimizer.lr=0.01']
    tuned = quiet(
        tmp_path / 'start.pth', 'instance', work / 'shapes', tmp_path / 'run', recipe='sam-lora',
        iters=2, batch_size=2, cfg_options=options,
    )  # fmt: skip
    assert losses_again(tuned.config, options, tmp_path / 'again') == losses(tmp_path / 'run')
    image = next((work / 'shapes').glob('*.jpg'))
    box = [20, 30, 150, 140]
    (result,) = tuned.inferencer(image, prompts=dict(boxes=[box]))
    # the file beside the config is a plain Segment Anything checkpoint
    parts = {key: value for key, value in cfg.model.model.to_dict().items() if key != 'type'}
    sam = build_sam(parts, tmp_path / 'run/sam.pth')
    predictor = SamPredictor(sam)
    predictor.set_image(np.asarray(Image.open(image).convert('RGB')))
    masks, _, _ = predictor.predict(box=np.array(box), multimask_output=False)
    assert np.array_equal(masks, np.asarray(result['masks'])[:1])
    changed = {name for name, value in sam.state_dict().items() if not torch.equal(value, start[name])}
    encoder = {name for name in changed if name.startswith('image_encoder.')}
    assert encoder == {f'image_encoder.blocks.{index}.attn.qkv.weight' for index in (0, 1)}
    assert any(name.startswith('mask_decoder.') for name in changed)


@pytest.mark.parametrize(
    ('task', 'data', 'backbone'),
    [
        ('instance', 'coco_mini', 'moco.pth'),
        ('instance', 'coco_mini', 'beit.py'),
        ('detect', 'bccd', 'vit.py'),
        ('classify', 'imagenette', 'vit.py'),
    ],
)
def test_configs_build_and_start_from_the_backbone(work, data_root, tmp_path, task, data, backbone):
    is_random = backbone.endswith('.py')
    tuned = quiet(
        'random' if is_random else work / backbone,
        task,
        data_root / data,
        tmp_path,
        backbone_config=work / backbone if is_random else None,
        dry_run=True,
    )
    assert tuned.model is None
    cfg = load_config(tuned.config)
    with scope_of(cfg):
        model = build(cfg.model, MODELS)
    if not is_random:
        model.init_weights()
        start = load_file(work / backbone)['state_dict']
        assert torch.equal(model.backbone.conv1.weight, start['backbone.conv1.weight'])
    assert [path.name for path in tmp_path.iterdir() if path.suffix == '.pth'] == []


def test_rules_of_the_budget(work):
    backbone = backbone_for('detect', pretraining_config('random', NARROW), 'random', False)
    given = dict.fromkeys(('batch_size', 'epochs', 'iters', 'size'))
    small = choose_budget('detect', 205, backbone, 0.0, given)
    assert (small.batch_size, small.iters, small.longest) == (4, 1538, 480)
    large = choose_budget('detect', 100000, backbone, 80.0, given)
    assert (large.batch_size, large.iters, large.longest) == (16, 20000, 1000)
    assert choose_budget('detect', 3, backbone, 0.0, given).batch_size == 3
    assert choose_budget('detect', 10, backbone, 0.0, {**given, 'epochs': 2}).iters == 5


def test_mistakes_say_why_and_write_nothing(work, tmp_path, capsys):
    bare = tmp_path / 'bare.pth'
    save_file({'state_dict': load_file(work / 'moco.pth')['state_dict']}, bare)
    swin = tmp_path / 'swin.py'
    swin.write_text("model = dict(backbone=dict(type='SwinTransformer', arch='Tiny'))\n")
    bands = tmp_path / 'bands.py'
    bands.write_text("model = dict(backbone=dict(type='ResNet', depth=18, in_channels=4))\n")
    own = tmp_path / 'own.py'
    own.write_text("model = dict(backbone=dict(type='mmssl.InfoMaxEncoder'))\n")
    five = tmp_path / 'five.py'
    five.write_text(f'mean = {[100.0] * 5}\nstd = {[50.0] * 5}\n')
    out = tmp_path / 'out'
    for arguments, options, error, words in (
        ((bare, 'detect', 'cells'), {}, CheckpointError, 'give it with --backbone-config'),
        ((work / 'moco.pth', 'detcet', 'cells'), {}, ValueError, "did you mean 'detect'"),
        (('random', 'detect', 'cells'), {}, UserError, 'no checkpoint says which backbone'),
        ((work / 'moco.pht', 'detect', 'cells'), {}, FileNotFoundError, 'moco.pht does not exist'),
        ((work / 'moco.pth', 'instance', 'cells'), {}, LabelError, "cannot be used for the task 'instance'"),
        (('random', 'instance', 'cells'), dict(backbone_config=own), UserError, 'InfoMaxEncoder'),
        (('random', 'detect', 'cells'), dict(backbone_config=swin), UserError, "of arch 'Tiny'"),
        ((work / 'moco.pth', 'detect', 'cells'), dict(recipe='sam-lora'), UserError, 'for --task instance'),
        (('random', 'instance', 'cells'), dict(recipe='sam-lora'), UserError, 'configs/sam'),
        (
            (work / 'moco.pth', 'instance', 'cells'),
            dict(recipe='sam-lora'),
            CheckpointError,
            'no image_encoder',
        ),
        ((work / 'moco.pth', 'detect', 'cells'), dict(seeds=(1, 1)), UserError, 'different numbers'),
        (
            ('random', 'classify', 'things'),
            dict(backbone_config=work / 'vit.py', size=60),
            UserError,
            'take 64',
        ),
        (
            ('random', 'detect', 'cells'),
            dict(backbone_config=bands, stats=five),
            UserError,
            'checkpoint of 4;',
        ),
        ((work / 'moco.pth', 'detect', 'cells'), dict(stats=bands), UserError, 'no mean and std'),
        ((work / 'moco.pth', 'detect', 'cells'), dict(stats='fvie.py'), FileNotFoundError, 'fvie.py does'),
        ((work / 'moco.pth', 'detect', 'cells'), dict(freeze=True), UserError, 'is for the task classify'),
        ((work / 'moco.pth', 'detect', 'cells'), dict(epochs=1, iters=1), UserError, 'two lengths'),
        ((work / 'moco.pth', 'detect', 'cells'), dict(size=0), UserError, '--size 0 must be at least 1'),
    ):
        with pytest.raises(error, match=words):
            finetune(arguments[0], arguments[1], work / arguments[2], out, **options)
        assert not out.exists(), words
    assert main(['finetune', str(bare), '--task', 'detect', '--data', str(work / 'cells')]) == 1
    assert 'does not hold the config of its training' in capsys.readouterr().err


def test_a_config_in_a_checkpoint_is_read_and_never_run(tmp_path):
    text = (
        "model = dict(backbone=dict(type='ResNet', depth=18, x=(1, [2, {'a': -3}])))\nbad = open('x', 'w')\n"
    )
    save_file({'state_dict': {}, 'meta': {'cfg': text}}, tmp_path / 'a.pth')
    cfg = pretraining_config(str(tmp_path / 'a.pth'), None)
    assert cfg == Config.fromstring(text.splitlines()[0], '.py').to_dict() and 'bad' not in cfg
    assert not Path('x').exists()
