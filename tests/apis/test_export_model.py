"""Whole models as ONNX: what onnxruntime returns is what PyTorch returns."""

import ast
import copy
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from mmssl.apis import DetectionInferencer, SegmentationInferencer, export_model, get_model
from mmssl.apis.onnx_models import compare
from mmssl.apis.onnx_models.runtime import paste_mask
from mmssl.apis.onnx_models.ties import ties_by_index
from mmssl.checkpoint import save_file
from mmssl.cli import main
from mmssl.config.load import load_config
from mmssl.errors import UserError

RESNET = dict(type='ResNet', depth=18, stem_channels=8, base_channels=8, norm_cfg=dict(type='BN'))
# random weights give every class the same score, whose order is chance
SPREAD = {'rpn_cls.weight': 8, 'rfcn_cls.weight': 60, 'fc_cls.weight': 60, 'conv_logits.weight': 60}
SIZES = ((120, 90), (75, 120))


def classifier(**backbone):
    steps = [
        dict(type='LoadImageFromFile'),
        dict(type='ResizeEdge', scale=72, edge='short'),
        dict(type='CenterCrop', crop_size=64),
        dict(type='PackInputs'),
    ]
    return Config(
        dict(
            default_scope='mmpretrain',
            model=dict(
                type='ImageClassifier',
                backbone={**RESNET, **backbone},
                neck=dict(type='GlobalAveragePooling'),
                head=dict(
                    type='LinearClsHead', num_classes=3, in_channels=64, loss=dict(type='CrossEntropyLoss')
                ),
            ),
            data_preprocessor=dict(
                type='ClsDataPreprocessor', mean=[120.0, 115, 105], std=[58.0, 57, 57], to_rgb=True
            ),
            test_dataloader=dict(
                dataset=dict(type='CustomDataset', pipeline=steps, metainfo=dict(classes=('a', 'b', 'c')))
            ),
        )
    )


def segmentor(head=None, **backbone):
    cfg = load_config('smoke/gcn')
    cfg.model.backbone.update(backbone)
    if head:
        head = dict(num_classes=11, loss_decode=dict(type='CrossEntropyLoss'), **head)
        cfg.model.decode_head = head
    return cfg


def two_stage(has_masks, score_thr=0.001):
    """Mask R-CNN or Faster R-CNN of mmdet's own config, with narrow layers."""
    name = 'mask-rcnn' if has_masks else 'faster-rcnn'
    cfg = load_config('smoke/rfcn')
    model = Config.fromfile(f'{Path(mmdet_configs())}/_base_/models/{name}_r50_fpn.py').model
    model.backbone = dict(RESNET)
    model.neck.update(in_channels=[8, 16, 32, 64], out_channels=16)
    model.rpn_head.update(in_channels=16, feat_channels=16)
    model.rpn_head.anchor_generator.scales = [2]
    head = model.roi_head
    head.bbox_roi_extractor.out_channels = 16
    head.bbox_head.update(in_channels=16, fc_out_channels=32, num_classes=10)
    if has_masks:
        head.mask_roi_extractor.out_channels = 16
        head.mask_head.update(in_channels=16, conv_out_channels=16, num_classes=10, num_convs=1)
    model.test_cfg.rpn.update(nms_pre=100, max_per_img=40)
    model.test_cfg.rcnn.update(score_thr=score_thr, max_per_img=30)
    cfg.model = model
    return cfg


def mmdet_configs():
    import mmdet

    return Path(mmdet.__file__).parent / '.mim/configs'


MODELS = {
    'classifier': classifier,
    'gcn': segmentor,
    'duc': lambda: segmentor(
        dict(type='mmssl.DUCHead', in_channels=64, in_index=3, dilations=(1, 2)),
        type='mmssl.HDCResNet',
        stage4=(1, 2),
    ),
    'uper': lambda: segmentor(
        dict(type='UPerHead', in_channels=[8, 16, 32, 64], in_index=[0, 1, 2, 3], channels=8)
    ),
    'rfcn': lambda: load_config('smoke/rfcn'),
    'rfcn-deform': lambda: load_config('smoke/rfcn-deform'),
    'faster-rcnn': lambda: two_stage(False),
    'mask-rcnn': lambda: two_stage(True),
}


@pytest.fixture(scope='module')
def images(data_root):
    """Two real images of different sizes, BGR."""
    paths = sorted((data_root / 'coco_mini/val2017').glob('*.jpg'))[:2]
    return [
        np.asarray(Image.open(path).convert('RGB').resize(size))[..., ::-1].copy()
        for path, size in zip(paths, SIZES, strict=True)
    ]


def checkpoint_of(cfg, path):
    torch.manual_seed(0)
    weights = get_model(copy.deepcopy(cfg)).state_dict()
    for name in weights:
        weights[name] *= next((factor for end, factor in SPREAD.items() if name.endswith(end)), 1)
    save_file({'state_dict': weights, 'meta': {}}, path)
    return path


@pytest.fixture(scope='module')
def exported(images, tmp_path_factory):
    """Return the config, checkpoint and export of a kind of model, exported once."""
    made = {}

    def export(kind):
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind)
            cfg = MODELS[kind]()
            weights = checkpoint_of(cfg, folder / 'weights.pth')
            made[kind] = cfg, weights, export_model(cfg, weights, folder / 'model.onnx', images=images)
        return made[kind]

    return export


def run_graph(path, pixels):
    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    return session.run(None, {'image': pixels})


@pytest.mark.parametrize('kind', MODELS)
def test_onnxruntime_agrees_with_pytorch(kind, exported):
    _, _, result = exported(kind)
    assert result.inputs == '(batch, 3, height, width)' and result.agreement.images == 2
    assert max(result.agreement.differences.values()) < 1e-4
    assert sorted(path.name for path in result.path.parent.iterdir()) == [
        'model.onnx',
        'model.py',
        'weights.pth',
    ]
    if result.task in ('detect', 'instance'):
        assert result.agreement.objects >= 48


@pytest.mark.parametrize('kind', ['gcn', 'uper'])
def test_logits_of_a_batch_of_another_size_equal_the_models(kind, exported):
    cfg, weights, result = exported(kind)
    model = get_model(cfg, pretrained=weights)
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 3, 70, 101)).astype(np.float32)
    (logits,) = run_graph(result.path, pixels)
    mean, std = (torch.tensor(cfg.data_preprocessor[key]).view(3, 1, 1) for key in ('mean', 'std'))
    with torch.no_grad():
        expected = model.encode_decode((torch.tensor(pixels) - mean) / std, [dict(img_shape=(70, 101))] * 2)
    assert np.allclose(logits, expected.numpy(), atol=1e-4)


def test_objects_of_a_batch_are_those_of_each_image(exported):
    _, _, result = exported('mask-rcnn')
    pixels = np.random.default_rng(0).uniform(0, 255, (3, 3, 96, 64)).astype(np.float32)
    boxes, scores, labels, images, masks = run_graph(result.path, pixels)
    assert masks.shape == (len(boxes), 28, 28) and labels.dtype == np.int64
    for index in range(3):
        alone = run_graph(result.path, pixels[index : index + 1])
        rows = images == index
        assert len(alone[0]) == rows.sum() > 0
        for batched, single in zip((boxes, scores, labels), alone, strict=False):
            assert np.allclose(batched[rows], single, atol=1e-3)
        assert (np.diff(scores[rows]) <= 0).all()


def test_no_detections(images, tmp_path):
    cfg = two_stage(True, score_thr=0.9999)
    result = export_model(cfg, None, tmp_path / 'none.onnx', images=images, script=False)
    outputs = run_graph(result.path, np.zeros((2, 3, 64, 96), np.float32))
    assert [output.shape for output in outputs] == [(0, 4), (0,), (0,), (0,), (0, 28, 28)]
    assert result.agreement.objects == 0 and result.script is None


def test_half_precision(exported, images, tmp_path):
    cfg, weights, whole = exported('uper')
    half = export_model(cfg, weights, tmp_path / 'half.onnx', images=images, fp16=True, script=False)
    graph = onnx.load(half.path).graph
    assert {onnx.TensorProto.FLOAT16} >= {each.data_type for each in graph.initializer if len(each.dims) == 4}
    assert graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert half.path.stat().st_size < 0.7 * whole.path.stat().st_size
    assert 0 < half.agreement.differences['logits'] < 0.03


def test_a_backbone_of_one_size_gets_a_graph_of_one_size(images, tmp_path):
    arch = dict(embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=32)
    cfg = classifier()
    cfg.model.backbone = dict(
        type='VisionTransformer', arch=arch, img_size=64, patch_size=16, out_type='avg_featmap'
    )
    cfg.model.neck = None
    cfg.model.head.in_channels = 16
    result = export_model(cfg, None, tmp_path / 'vit.onnx', images=images)
    assert result.inputs == '(batch, 3, 64, 64)'


def test_the_script_finds_what_the_inferencer_finds(exported, images, warm_cli, tmp_path):
    cfg, weights, result = exported('mask-rcnn')
    tree = ast.parse(result.script.read_text())
    modules = {
        alias.name.partition('.')[0]
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in ([ast.alias(node.module)] if isinstance(node, ast.ImportFrom) else node.names)
    }
    assert modules == {'sys', 'pathlib', 'numpy', 'onnxruntime', 'PIL'}
    Image.fromarray(images[0][..., ::-1]).resize((240, 180)).save(tmp_path / 'image.png')
    done = warm_cli('image.png', program=result.script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (expected,) = DetectionInferencer(cfg, weights)(tmp_path / 'image.png')
    count = (expected['scores'] >= 0.3).sum()
    found = [line.split() for line in done.stdout.splitlines()]
    assert count > 2 and abs(len(found) - count) <= 1  # Pillow and OpenCV round pixels differently
    names = [cfg.test_dataloader.dataset.metainfo.classes[label] for label in expected['labels']]
    for words, name, score, box in zip(
        found[:2], names, expected['scores'], expected['bboxes'], strict=False
    ):
        assert words[1] == name and float(words[2]) == pytest.approx(score, abs=0.03)
        assert [float(word.rstrip(',')) for word in words[4:8]] == pytest.approx(box, abs=3)


@pytest.mark.parametrize('kind', ['gcn', 'classifier'])
def test_scripts_of_logits(kind, exported, images, warm_cli, tmp_path):
    cfg, weights, result = exported(kind)
    Image.fromarray(images[0][..., ::-1]).save(tmp_path / 'image.png')
    done = warm_cli('image.png', program=result.script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    if kind == 'classifier':
        assert {line.split()[1] for line in done.stdout.splitlines()} == {'a', 'b', 'c'}
        return
    (expected,) = SegmentationInferencer(cfg, weights)(tmp_path / 'image.png')
    labels = np.asarray(Image.open(tmp_path / 'image_classes.png'))
    assert (labels == expected['pred_sem_seg']).mean() > 0.98


def test_a_pasted_mask_is_that_of_mmdet():
    from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask

    mask = np.random.default_rng(0).uniform(size=(14, 14)).astype(np.float32)
    box = np.array([3.3, -2.1, 40.7, 25.2], np.float32)
    expected, _ = _do_paste_mask(torch.tensor(mask)[None, None], torch.tensor(box)[None], 30, 50, False)
    assert np.allclose(paste_mask(mask, box, (50, 30)), expected[0].numpy(), atol=1e-5)


def test_a_graph_that_disagrees_is_not_left(exported, images, tmp_path, monkeypatch):
    """The graph gets other weights than the model that it is compared with."""
    from mmssl.apis.onnx_models import run

    cfg, weights, _ = exported('classifier')
    build = run.build_graph

    def other_weights(model, *arguments):
        model = copy.deepcopy(model)
        model.head.fc.bias.data += 0.01
        return build(model, *arguments)

    monkeypatch.setattr(run, 'build_graph', other_weights)
    with pytest.raises(UserError, match=r'the logits of the graph differ from PyTorch by 0\.01'):
        export_model(cfg, weights, tmp_path / 'out.onnx', images=images)
    assert not list(tmp_path.iterdir())


def test_equal_scores_are_sorted_by_index():
    from mmcv.ops import batched_nms

    boxes = torch.tensor([0.0, 0.0, 10.0, 10.0]) + torch.arange(3000.0)[:, None] * torch.tensor([0, 4, 0, 4])
    scores = torch.full((3000,), 0.5)
    with ties_by_index():
        for order in (scores.sort(0, True)[1], torch.sort(scores, descending=True)[1]):
            assert torch.equal(order, torch.arange(3000))
        settings = dict(type='nms', iou_threshold=0.4)
        remaining = batched_nms(boxes, scores, torch.zeros(3000), settings)[1]
        assert torch.equal(remaining, torch.arange(0, 3000, 2))  # IoU of neighbours is 6 / 14


def test_objects_that_differ_are_found():
    reference = dict(
        bboxes=np.array([[0, 0, 10, 10], [20, 20, 40, 40], [5, 5, 9, 9]], np.float32),
        scores=np.array([0.9, 0.8, 0.1], np.float32),
        labels=np.array([0, 1, 1]),
    )
    judge = compare.Comparison.__new__(compare.Comparison)
    judge.tolerance = compare.TOLERANCES[torch.float32]
    judge.objects, judge.differences = 0, {}
    judge.max_objects, judge.score_threshold = 100, 0.05
    judge._compare_image(copy.deepcopy(reference), reference, 'image')
    assert judge.objects == 3
    for key, value in (('bboxes', 1.0), ('scores', 0.001), ('labels', 1)):
        wrong = copy.deepcopy(reference)
        wrong[key][:2] += value
        with pytest.raises(UserError, match='returns 1 of the 3 objects'):
            judge._compare_image(wrong, reference, 'image')
    for index in range(3):  # the score is right, and so are the other boxes
        wrong = copy.deepcopy(reference)
        wrong['bboxes'][index] += 1
        with pytest.raises(UserError, match='returns 2 of the 3 objects'):
            judge._compare_image(wrong, reference, 'image')


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['smoke/gcn', 'random', 'out.pth'], 'out.pth: give a name that ends in .onnx'),
        (['smoke/gcn', 'random', 'out.onnx', '--images', 'nowhere'], 'nowhere'),
        (['smoke/gcn', 'random', 'there.onnx'], 'there.onnx exists; --force'),
        (['smoke/gcn', 'weights.pth', 'out.onnx'], 'weights.pth is not the checkpoint of this model'),
        (['smoke/mae', 'random', 'out.onnx'], 'has no classifier'),
        (['smoke/sam', 'random', 'out.onnx'], 'PromptInferencer'),
        (
            ['smoke/rfcn', 'random', 'out.onnx', '--cfg-options', 'model.test_cfg.rcnn.nms.type=soft_nms'],
            'soft_nms',
        ),
    ],
)
def test_refusals(arguments, message, tmp_path, monkeypatch, capsys, exported):
    _, weights, _ = exported('classifier')
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'there.onnx').touch()
    (tmp_path / 'weights.pth').symlink_to(weights)
    assert main(['export', 'model', *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ['there.onnx', 'weights.pth']


def test_other_detectors_are_refused_by_name(tmp_path):
    cfg = load_config('smoke/rfcn')
    path = mmdet_configs() / '_base_/models/retinanet_r50_fpn.py'
    cfg.model = Config.fromfile(path).model
    with pytest.raises(UserError, match='model is a RetinaNet, .* supported: FasterRCNN, MaskRCNN, RFCN'):
        export_model(cfg, None, tmp_path / 'out.onnx')
    assert not list(tmp_path.iterdir())
