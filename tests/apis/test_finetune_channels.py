"""Fine-tuning on TIFF files of five bands: R-FCN, GCN and Segment Anything learn from all of them."""

import json

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from mmssl.apis import finetune, get_model
from mmssl.checkpoint import load_file, save_file
from mmssl.cli import main
from mmssl.config.load import load_config

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings('ignore')]

NARROW = 'tutorial/pretrain_moco-v2_resnet18-narrow_1xb64-coslr-40e_pool'
# no processes, no validation, and few proposals
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
# what pre-training reads, with a range for each band
RANGES = [(0, 4000), (0, 4000), (0, 4000), (0, 2000), (-1000, 1000)]
READING = f"""
data_preprocessor = dict(mean={[128.0] * 5}, std={[60.0] * 5})
train_dataloader = dict(dataset=dict(pipeline=[
    dict(type='mmssl.LoadViews', preset='moco-v2-bands', scale=32, channels=5, value_range={RANGES})]))
"""


@pytest.fixture(scope='module')
def scans(tmp_path_factory):
    """Five int16 bands with two squares that only the last one shows: outlines, and label maps."""
    folder = tmp_path_factory.mktemp('scans')
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for index in range(6):
        bands = rng.integers(0, 1000, (5, 64, 80)).astype(np.int16)
        labels = np.zeros((64, 80), np.uint8)
        for side, left in ((20, 4), (28, 40)):
            bands[4, 10 : 10 + side, left : left + side] -= 900
            labels[10 : 10 + side, left : left + side] = 1
            annotations.append(
                dict(id=len(annotations) + 1, image_id=index, category_id=1, iscrowd=0, area=side * side)
                | dict(bbox=[left, 10, side, side])
                | dict(segmentation=[[left, 10, left + side, 10, left + side, 10 + side, left, 10 + side]])
            )
        name = f'{index}.tif'
        for root in ('boxes', 'maps/images'):
            (folder / root).mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(folder / root / name, bands, planarconfig='separate', photometric='minisblack')
        (folder / 'maps/labels').mkdir(exist_ok=True)
        Image.fromarray(labels).save(folder / 'maps/labels' / f'{index}.png')
        images.append(dict(id=index, file_name=name, width=80, height=64))
    content = dict(images=images, annotations=annotations, categories=[dict(id=1, name='square')])
    (folder / 'boxes/labels.json').write_text(json.dumps(content))
    return folder


@pytest.fixture(scope='module')
def narrow(tmp_path_factory):
    """Weights of a narrow ResNet-18, for RGB and for the bands."""
    folder = tmp_path_factory.mktemp('narrow')
    for channels, text in ((3, ''), (5, READING)):
        options = ['base_channels=8', 'stem_channels=8', *(['in_channels=5'] if channels == 5 else [])]
        cfg = load_config(
            NARROW, [*(f'model.backbone.{each}' for each in options), 'model.neck.in_channels=64']
        )
        torch.manual_seed(3)
        weights = {f'backbone.{key}': value for key, value in get_model(cfg).backbone.state_dict().items()}
        path = folder / f'{channels}.pth'
        save_file({'state_dict': weights, 'meta': {'cfg': f'{cfg.pretty_text}\n{text}'}}, path)
    return folder


def first_weight(model, start):
    """How much each channel of a first convolution has changed, (C,)."""
    changed = model.state_dict()['backbone.conv1.weight'].cpu() - start
    return changed.abs().amax((0, 2, 3))


def test_detection_reads_what_pretraining_read(scans, narrow, tmp_path):
    options = [*FAST, *FEW_PROPOSALS]
    tuned = finetune(
        narrow / '5.pth',
        'detect',
        scans / 'boxes',
        tmp_path,
        iters=1,
        batch_size=2,
        size=80,
        cfg_options=options,
    )
    cfg = load_config(tuned.config)
    loader, preprocessor = cfg.train_pipeline[0], cfg.model.data_preprocessor
    assert (loader.value_range, loader.channels) == (RANGES, 5) and preprocessor.mean == [128.0] * 5
    start = load_file(narrow / '5.pth')['state_dict']['backbone.conv1.weight']
    assert (first_weight(tuned.model, start) > 0).all()
    assert len(tuned.inferencer(scans / 'boxes/0.tif')[0]['scores']) >= 0


def test_segmentation_with_measured_ranges_grows_weights_of_rgb(scans, narrow, tmp_path, capsys):
    assert main(['stats', str(scans / 'maps/images'), '--out', str(tmp_path / 'measured.py')]) == 0
    tuned = finetune(
        narrow / '3.pth', 'semantic', scans / 'maps', tmp_path / 'run', iters=1, batch_size=2,
        stats=str(tmp_path / 'measured.py'), cfg_options=FAST,
    )  # fmt: skip
    cfg = load_config(tuned.config)
    assert np.shape(cfg.train_pipeline[0].value_range) == (5, 2)
    assert [step.type for step in cfg.train_pipeline].count('mmssl.BandJitter') == 1
    rgb = load_file(narrow / '3.pth')['state_dict']['backbone.conv1.weight']
    grown = (rgb.mean(1, keepdim=True) * 3 / 5).expand(-1, 5, -1, -1)
    # a step of AdamW moves a weight by about its rate
    assert first_weight(tuned.model, grown).min() > 0 and first_weight(tuned.model, grown).max() < 0.01
    (result,) = tuned.inferencer(scans / 'maps/images/0.tif')
    assert result['pred_sem_seg'].shape == (64, 80)


def test_segment_anything_learns_masks_of_five_bands(scans, tmp_path):
    cfg = load_config('smoke/sam')
    torch.manual_seed(3)
    save_file(
        {'state_dict': get_model(cfg).state_dict(), 'meta': {'cfg': cfg.pretty_text}}, tmp_path / 'a.pth'
    )
    (tmp_path / 'measured.py').write_text(f'value_range = {RANGES}\nmean = {[128.0] * 5}\nstd = {[60.0] * 5}')
    tuned = finetune(
        tmp_path / 'a.pth', 'instance', scans / 'boxes', tmp_path / 'run', recipe='sam-lora', iters=1,
        batch_size=2, stats=str(tmp_path / 'measured.py'), cfg_options=FAST,
    )  # fmt: skip
    assert tuned.model.pixel_mean.flatten().tolist() == [128.0] * 5
    assert load_file(tmp_path / 'run/sam.pth')['image_encoder.patch_embed.proj.weight'].shape[1] == 5
    (result,) = tuned.inferencer(scans / 'boxes/0.tif', prompts=dict(boxes=[[4, 10, 24, 30]]))
    assert result['masks'].shape == (1, 64, 80)
