"""Every registered model: documented, built small, run, saved, copied, in float64.

Imports need no toolbox that they do not use.
"""

import copy
import io
import pickle
import random
import re
import subprocess
import sys

import pytest
import torch

from mmssl.registry import MODELS
from mmssl.selfsup.small import ARCH, Small, forward, small_settings_of_methods

ROIS = torch.tensor([[0.0, 2.0, 3.0, 20.0, 30.0], [1.0, 0.0, 0.0, 31.0, 12.0], [1.0, 9.0, 8.0, 15.0, 28.0]])


def proposals():
    from mmengine.structures import InstanceData

    return [InstanceData(bboxes=ROIS[ROIS[:, 0] == image, 1:]) for image in (0, 1)]


def samples():
    from mmdet.structures import DetDataSample

    data_samples = [DetDataSample(metainfo=dict(img_shape=(32, 32))) for _ in range(2)]
    for sample, boxes in zip(data_samples, proposals(), strict=True):
        sample.proposals = boxes
    return data_samples


SMALL_RFCN = dict(
    type='mmssl.RFCNBBoxHead', in_channels=64, num_classes=4, roi_feat_size=3, hidden_channels=8
)
SAM_ENCODER = dict(
    img_size=32,
    patch_size=8,
    embed_dim=16,
    depth=2,
    num_heads=2,
    out_chans=16,
    window_size=3,
    global_attn_indexes=(1,),
)
SAM_DECODER = dict(transformer=dict(num_heads=2, mlp_dim=32), iou_head_hidden_dim=16)


def run_sam(model, images):
    boxes = ROIS[:, 1:].to(images.dtype)
    return model.decode(model.image_encoder(images), [dict(boxes=boxes), dict(boxes=boxes[:1])], False)[0][0]


def run_mask_decoder(model, images):
    maps = images.reshape(2, 48, 8, 8)[:, :16]
    return model(maps, maps[:1].flip(2), maps.flatten(2)[:, :3, :16], maps[:1], True)[0]


def run_preprocessor(model, images):
    from mmseg.structures import SegDataSample

    samples = [SegDataSample(), SegDataSample()]
    inputs = images if 'SelfSup' in type(model).__name__ else list(images)
    return model(dict(inputs=inputs, data_samples=samples))['inputs']


PREPROCESSOR = dict(mean=[120.0] * 3, std=[60.0] * 3, bgr_to_rgb=True)
SMALL_HDC = dict(
    type='mmssl.HDCResNet', depth=18, stem_channels=8, base_channels=8, stage3=(1, 2), stage4=(5, 9)
)
SEG_LOSS = dict(type='mmseg.CrossEntropyLoss', avg_non_ignore=True)
# smallest settings, a call that gives one tensor, its shape. Methods of mmssl.selfsup declare theirs beside
# the class; another new class needs an entry here
OTHERS = {
    **{
        name: Small(PREPROCESSOR, run_preprocessor, (2, 3, 32, 32))
        for name in ('ImgDataPreprocessor', 'SelfSupDataPreprocessor', 'DetDataPreprocessor')
    },
    'SegDataPreProcessor': Small(
        dict(PREPROCESSOR, test_cfg=dict(size_divisor=32)), run_preprocessor, (2, 3, 32, 32)
    ),
    'SAM': Small(
        dict(image_encoder=dict(type='mmssl.SAMImageEncoder', **SAM_ENCODER), mask_decoder=SAM_DECODER),
        run_sam,
        (3, 1, 16, 16),
    ),
    'InteractiveSAM': Small(
        dict(
            model=dict(
                type='mmssl.SAM',
                image_encoder=dict(type='mmssl.SAMImageEncoder', **SAM_ENCODER),
                mask_decoder=SAM_DECODER,
            )
        ),
        forward,
        (2, 16, 4, 4),
    ),
    'SAMImageEncoder': Small(SAM_ENCODER, forward, (2, 16, 4, 4)),
    'SAMTinyViT': Small(
        dict(
            img_size=32,
            embed_dims=(4, 8, 8, 8),
            depths=(1, 1, 1, 1),
            num_heads=(1, 1, 2, 2),
            window_sizes=(2, 2, 3, 2),
            num_classes=2,
            out_chans=8,
        ),
        forward,
        (2, 8, 2, 2),
    ),
    'SAMBackbone': Small(
        dict(
            backbone=dict(type='mmssl.ViT', arch=ARCH, img_size=32, patch_size=8, out_indices=(0, 1)),
            in_channels=(32, 32),
            img_size=32,
            out_chans=16,
            stride=4,
        ),
        forward,
        (2, 16, 8, 8),
    ),
    'SAMPromptEncoder': Small(
        dict(embed_dim=16, image_embedding_size=(4, 4), input_image_size=(32, 32)),
        lambda model, images: model(
            (ROIS[None, :, 1:3].to(images.dtype), torch.tensor([[0, 1, -1]])), None, None
        )[0],
        (1, 4, 16),
    ),
    'SAMMaskDecoder': Small(dict(transformer_dim=16, **SAM_DECODER), run_mask_decoder, (2, 3, 32, 32)),
    'ViT': Small(
        dict(arch=ARCH, img_size=32, patch_size=8),
        lambda model, images: model(images)[0],
        (2, 32, 4, 4),
    ),
    'MLP': Small(dict(dims=(3, 8, 4), last_bn=True), lambda model, images: model((images,)), (2, 4)),
    'HDCResNet': Small(
        {key: value for key, value in SMALL_HDC.items() if key != 'type'},
        lambda model, images: model(images)[3],
        (2, 64, 4, 4),
    ),
    'GCNResNet': Small(
        dict(depth=50, stem_channels=8, base_channels=8, kernel_size=3),
        lambda model, images: model(images)[3],
        (2, 256, 1, 1),
    ),
    'DUCHead': Small(
        dict(in_channels=3, num_classes=5, factor=2, dilations=(1, 2), loss_decode=SEG_LOSS),
        lambda model, images: model([images]),
        (2, 5, 64, 64),
    ),
    'DenseASPPHead': Small(
        dict(in_channels=3, num_classes=5, dilations=(1, 2), growth=4, loss_decode=SEG_LOSS),
        lambda model, images: model([images]),
        (2, 5, 32, 32),
    ),
    'GlobalConvHead': Small(
        dict(in_channels=[3, 3], strides=(4, 8), num_classes=5, kernel_size=5, loss_decode=SEG_LOSS),
        lambda model, images: model([images, images[..., ::2, ::2]]),
        (2, 5, 128, 128),
    ),
    'EncoderDecoder': Small(
        dict(
            backbone=SMALL_HDC,
            test_cfg=dict(mode='whole'),
            decode_head=dict(
                type='mmssl.DUCHead', in_channels=64, in_index=3, num_classes=5, loss_decode=SEG_LOSS
            ),
        ),
        lambda model, images: model(images, mode='tensor'),
        (2, 5, 32, 32),
    ),
    'RFCNBBoxHead': Small(
        dict(in_channels=3, num_classes=4, roi_feat_size=3, hidden_channels=8, stride=1),
        lambda model, images: model(images, ROIS)[0],
        (3, 5),
    ),
    'RFCNRoIHead': Small(
        dict(bbox_head={**SMALL_RFCN, 'in_channels': 3, 'stride': 1, 'deformable': True}),
        lambda model, images: model((images,), proposals())[1],
        (3, 4),
    ),
    'RFCN': Small(
        dict(
            backbone=dict(
                type='mmdet.ResNet',
                depth=18,
                stem_channels=8,
                base_channels=8,
                strides=(1, 2, 2, 1),
                out_indices=(2, 3),
            ),
            rpn_head=dict(type='mmdet.RPNHead', in_channels=32, feat_channels=8),
            roi_head=dict(type='mmssl.RFCNRoIHead', bbox_head=SMALL_RFCN),
            test_cfg=dict(rpn={}, rcnn={}),
        ),
        lambda model, images: model(images, samples(), mode='tensor')[0][0],
        (3, 5),
    ),
    'PromptedInstanceSegmentor': Small(
        dict(
            detector=dict(
                type='mmssl.RFCN',
                rpn_head=dict(type='mmdet.RPNHead', in_channels=32, feat_channels=8),
                backbone=dict(
                    type='mmdet.ResNet',
                    depth=18,
                    stem_channels=8,
                    base_channels=8,
                    strides=(1, 2, 2, 1),
                    out_indices=(2, 3),
                ),
                roi_head=dict(type='mmssl.RFCNRoIHead', bbox_head=SMALL_RFCN),
                test_cfg=dict(rpn={}, rcnn={}),
            ),
            sam=dict(
                type='mmssl.SAM',
                image_encoder=dict(type='mmssl.SAMImageEncoder', **SAM_ENCODER),
                mask_decoder=SAM_DECODER,
            ),
        ),
        lambda model, images: model(images, samples(), mode='tensor')[0][0],
        (3, 5),
    ),
    'ViTDet': Small(
        dict(arch=ARCH, img_size=32, patch_size=4, window_size=3, global_indices=(1,)),
        forward,
        (2, 32, 8, 8),
    ),
    'SimpleFeaturePyramid': Small(
        dict(in_channels=12, out_channels=8, num_outs=5),
        lambda model, images: model((images.repeat(1, 4, 1, 1)[..., ::4, ::4],))[1],
        (2, 8, 16, 16),
    ),
    'DilatedMobileNetV2': Small(
        dict(widen_factor=0.25),
        lambda model, images: model(images)[1],
        (2, 80, 2, 2),
    ),
    'DeformRoIExtractor': Small(
        dict(out_channels=4, featmap_strides=[1], in_channels=3, roi_feat_size=3),
        lambda model, images: model([images], ROIS),
        (3, 4, 3, 3),
    ),
    'DeformConv': Small(
        dict(in_channels=3, out_channels=4, kernel_size=3, padding=1),
        forward,
        (2, 4, 32, 32),
    ),
    'DCNv3': Small(
        dict(in_channels=3, out_channels=4, deform_groups=1),
        forward,
        (2, 4, 32, 32),
    ),
    'DeformResNet': Small(
        dict(depth=18, stem_channels=8, base_channels=8),
        lambda model, images: model(images)[3],
        (2, 64, 1, 1),
    ),
}
MODELS.import_from_location()
MODELS.import_pending()
NAMES = sorted(MODELS.module_dict)


METHODS = small_settings_of_methods()
SMALL = {**OTHERS, **METHODS}


def build(name):
    torch.manual_seed(0)
    return MODELS.build(dict(copy.deepcopy(SMALL[name].settings), type=f'mmssl.{name}')).eval()


def run(name, model, dtype=torch.float32):
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(dtype)
    torch.manual_seed(0)
    random.seed(0)
    if hasattr(model, 'set_schedule'):
        model.set_schedule(1, 10)
    return SMALL[name].run(model, images)


def test_every_class_has_its_smallest_settings_once():
    assert set(NAMES) == set(SMALL)
    assert not set(OTHERS) & set(METHODS)


@pytest.mark.parametrize('name', NAMES)
def test_says_what_it_does_and_in_which_shapes(name):
    part = MODELS.module_dict[name]
    assert part.__doc__ and len(part.__doc__.split()) > 5
    own = [part, *(vars(part).get(method) for method in ('forward', 'loss', 'extract_feat'))]
    inherited = [getattr(part, 'forward', None)]
    text = '\n'.join(getattr(item, '__doc__', None) or '' for item in own + inherited)
    assert re.search(r'\(B, [^)]+\)|\(\.\.\., \w+\)', text), (
        f'no docstring of {name} gives the shape of a tensor'
    )
    assert (
        part.__module__.startswith('mmssl.') and getattr(sys.modules[part.__module__], part.__name__) is part
    )


@pytest.mark.filterwarnings('ignore:.*is not attached to the optimizer')
@pytest.mark.parametrize('name', NAMES)
def test_runs_and_learns(name):
    model = build(name)
    out = run(name, model)
    assert (
        tuple(out.shape) == SMALL[name].shape
        and out.dtype == torch.float32
        and bool(torch.isfinite(out).all())
    )
    assert torch.equal(out, run(name, model)), 'with the same draw the result is the same'
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if trained:
        model.train()
        run(name, model).square().sum().backward()
        gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
        assert gradients and all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
        assert any(bool(gradient.abs().sum() > 0) for gradient in gradients)


@pytest.mark.parametrize('name', NAMES)
def test_saved_weights_come_back(name):
    model, other = build(name), build(name)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.3)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    result = other.load_state_dict(torch.load(file, weights_only=True), strict=True)
    assert not result.missing_keys and not result.unexpected_keys
    assert torch.equal(run(name, model), run(name, other))


@pytest.mark.parametrize('name', NAMES)
def test_copies_are_equal_and_independent(name):
    model = build(name)
    before = run(name, model).detach().clone()
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(run(name, copied), before)
        with torch.no_grad():
            for parameter in copied.parameters():
                parameter.zero_()
        assert torch.equal(run(name, model), before)
    text = repr(model)
    assert text.startswith(name) and len(text) < 20_000


@pytest.mark.parametrize('name', NAMES)
def test_float64_is_the_same_with_more_digits(name):
    model = build(name)
    single = run(name, model)
    double = run(name, model.double(), torch.float64)
    assert double.dtype == torch.float64
    assert torch.allclose(single.double(), double, atol=1e-4, rtol=1e-4)
    assert not torch.equal(single.double(), double)


@pytest.mark.parametrize('name', [name for name in NAMES if name in SMALL and build(name).state_dict()])
def test_initial_weights_are_drawn_from_the_seed(name):
    drawn = []
    for seed in (1, 1, 2):
        model = build(name)
        torch.manual_seed(seed)
        model.init_weights()
        drawn.append({key: value.clone() for key, value in model.state_dict().items()})
    assert all(torch.equal(value, drawn[1][key]) for key, value in drawn[0].items())
    assert any(not torch.equal(value, drawn[2][key]) for key, value in drawn[0].items())


BLOCKED = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in {blocked!r}:
            raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)

sys.meta_path.insert(0, Blocked())
for name in {blocked!r}:
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise SystemExit(f'{{name}} was not blocked')
{code}
"""


@pytest.mark.parametrize(
    ('blocked', 'code'),
    [
        (
            ('mmdet', 'mmseg'),
            'import mmssl.layers, mmssl.selfsup, mmssl.data, mmssl.evaluation, mmssl.engine\n'
            'from mmssl.registry import MODELS\nassert MODELS.get("mmssl.MAE") is not None',
        ),
        (
            ('mmdet', 'mmseg', 'mmpretrain', 'mmcv'),
            'import torch\nfrom mmssl.layers import ViT\n'
            'vit = ViT("tiny", img_size=32, patch_size=8)\n'
            'assert vit(torch.zeros(1, 3, 32, 32))[0].shape == (1, 192, 4, 4)',
        ),
        (('torch', 'mmengine', 'numpy'), 'import mmssl, mmssl.cli\nassert mmssl.__version__'),
    ],
    ids=['no mmdet, no mmseg', 'layers with mmengine alone', 'the package with nothing'],
)
def test_imports_need_no_more_than_they_use(blocked, code, repo_root):
    done = subprocess.run(
        [sys.executable, '-c', BLOCKED.format(blocked=set(blocked), code=code)],
        capture_output=True,
        text=True,
        cwd=repo_root,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
