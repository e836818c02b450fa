"""Every registered model: documented, built small, run, saved, copied, in float64; imports need no host that they do not use."""

import copy
import io
import pickle
import re
import subprocess
import sys

import pytest
import torch

from mmssl.registry import MODELS

pytestmark = pytest.mark.slow

ARCH = dict(embed_dims=32, num_layers=2, num_heads=4, feedforward_channels=64)
DECODER = dict(
    num_patches=16, patch_size=8, embed_dim=32, decoder_embed_dim=16, decoder_depth=2, decoder_num_heads=2
)


def images(dtype):
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(dtype)


def noise():
    return torch.rand(2, 16, generator=torch.Generator().manual_seed(1))


def run_decoder(model, dtype):
    latent = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0)).to(dtype)
    order = noise().argsort(1)
    return model(latent, order[:, :4], order[:, 4:])


def run_head(model, dtype):
    patches = torch.randn(2, 12, 192, generator=torch.Generator().manual_seed(0)).to(dtype)
    return model.loss(patches.flip(1), patches)


def swav_loss(model, x):
    model.set_schedule(1, 10)
    return model.loss([x, x.flip(3), x[..., :16, :16]])['loss']


def moby_loss(model, x):
    model.set_schedule(1, 10)
    return model.loss([x, x.flip(3)])['loss']


ROIS = torch.tensor([[0.0, 2.0, 3.0, 20.0, 30.0], [1.0, 0.0, 0.0, 31.0, 12.0], [1.0, 9.0, 8.0, 15.0, 28.0]])


def proposals():
    from mmengine.structures import InstanceData

    return [InstanceData(bboxes=ROIS[ROIS[:, 0] == image, 1:]) for image in (0, 1)]


def samples():
    from mmdet.structures import DetDataSample

    found = [DetDataSample(metainfo=dict(img_shape=(32, 32))) for _ in range(2)]
    for sample, boxes in zip(found, proposals(), strict=True):
        sample.proposals = boxes
    return found


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


def run_sam(model, dtype):
    boxes = ROIS[:, 1:].to(dtype)
    return model.decode(
        model.image_encoder(images(dtype)), [dict(boxes=boxes), dict(boxes=boxes[:1])], False
    )[0][0]


def run_mask_decoder(model, dtype):
    maps = images(dtype).reshape(2, 48, 8, 8)[:, :16]
    return model(maps, maps[:1].flip(2), maps.flatten(2)[:, :3, :16], maps[:1], True)[0]


SMALL_HDC = dict(
    type='mmssl.HDCResNet', depth=18, stem_channels=8, base_channels=8, stage3=(1, 2), stage4=(5, 9)
)
SEG_LOSS = dict(type='mmseg.CrossEntropyLoss', avg_non_ignore=True)
# name -> (smallest settings, a forward pass that gives one tensor, its shape); a new model needs its line
# here
SMALL = {
    'SAM': (
        dict(image_encoder=dict(type='mmssl.SAMImageEncoder', **SAM_ENCODER), mask_decoder=SAM_DECODER),
        run_sam,
        (3, 1, 16, 16),
    ),
    'InteractiveSAM': (
        dict(
            model=dict(
                type='mmssl.SAM',
                image_encoder=dict(type='mmssl.SAMImageEncoder', **SAM_ENCODER),
                mask_decoder=SAM_DECODER,
            )
        ),
        lambda model, dtype: model(images(dtype)),
        (2, 16, 4, 4),
    ),
    'SAMImageEncoder': (SAM_ENCODER, lambda model, dtype: model(images(dtype)), (2, 16, 4, 4)),
    'SAMTinyViT': (
        dict(
            img_size=32,
            embed_dims=(4, 8, 8, 8),
            depths=(1, 1, 1, 1),
            num_heads=(1, 1, 2, 2),
            window_sizes=(2, 2, 3, 2),
            num_classes=2,
            out_chans=8,
        ),
        lambda model, dtype: model(images(dtype)),
        (2, 8, 2, 2),
    ),
    'SAMBackbone': (
        dict(
            backbone=dict(type='mmssl.ViT', arch=ARCH, img_size=32, patch_size=8, out_indices=(0, 1)),
            in_channels=(32, 32),
            img_size=32,
            out_chans=16,
            stride=4,
        ),
        lambda model, dtype: model(images(dtype)),
        (2, 16, 8, 8),
    ),
    'SAMPromptEncoder': (
        dict(embed_dim=16, image_embedding_size=(4, 4), input_image_size=(32, 32)),
        lambda model, dtype: model((ROIS[None, :, 1:3].to(dtype), torch.tensor([[0, 1, -1]])), None, None)[0],
        (1, 4, 16),
    ),
    'SAMMaskDecoder': (dict(transformer_dim=16, **SAM_DECODER), run_mask_decoder, (2, 3, 32, 32)),
    'ViT': (
        dict(arch=ARCH, img_size=32, patch_size=8),
        lambda model, dtype: model(images(dtype))[0],
        (2, 32, 4, 4),
    ),
    'MAEViT': (
        dict(arch=ARCH, img_size=32, patch_size=8),
        lambda model, dtype: model(images(dtype), True, noise())[0],
        (2, 5, 32),
    ),
    'MAEDecoder': (DECODER, run_decoder, (2, 16, 192)),
    'MAEHead': (dict(patch_size=8, norm_pix=True), run_head, ()),
    'MAE': (
        dict(
            backbone=dict(type='mmssl.MAEViT', arch=ARCH, img_size=32, patch_size=8),
            neck=dict(type='mmssl.MAEDecoder', **DECODER),
            head=dict(type='mmssl.MAEHead', patch_size=8),
        ),
        lambda model, dtype: model.loss(images(dtype), noise=noise())['loss'],
        (),
    ),
    'MoCoV1Neck': (dict(in_channels=3, out_channels=8), lambda model, dtype: model((images(dtype),)), (2, 8)),
    'MoCoV2Neck': (
        dict(in_channels=3, hid_channels=16, out_channels=8),
        lambda model, dtype: model((images(dtype),)),
        (2, 8),
    ),
    'MoCo': (
        dict(
            backbone=dict(type='mmpretrain.ResNet', depth=18, stem_channels=8, base_channels=8),
            neck=dict(type='mmssl.MoCoV2Neck', in_channels=64, out_channels=8),
            queue_len=16,
            temperature=0.2,
        ),
        lambda model, dtype: model.loss([images(dtype), images(dtype).flip(3)])['loss'],
        (),
    ),
    'MLP': (dict(dims=(3, 8, 4), last_bn=True), lambda model, dtype: model((images(dtype),)), (2, 4)),
    'MoCoV3ViT': (
        dict(arch=ARCH, img_size=32, patch_size=8),
        lambda model, dtype: model(images(dtype))[0],
        (2, 32),
    ),
    'MoCoV3Head': (
        dict(predictor=dict(type='mmssl.MLP', dims=(3, 8, 3))),
        lambda model, dtype: model.loss(
            images(dtype).mean(3).unbind(2)[:2], images(dtype).mean(2).unbind(2)[:2]
        ),
        (),
    ),
    'MoCoV3': (
        dict(
            backbone=dict(type='mmssl.MoCoV3ViT', arch=ARCH, img_size=32, patch_size=8),
            neck=dict(type='mmssl.MLP', dims=(32, 16, 16, 8), last_bn=True),
            head=dict(
                type='mmssl.MoCoV3Head', predictor=dict(type='mmssl.MLP', dims=(8, 16, 8)), temperature=0.2
            ),
        ),
        lambda model, dtype: moby_loss(model, images(dtype)),
        (),
    ),
    'MoBY': (
        dict(
            backbone=dict(type='mmssl.ViT', arch=ARCH, img_size=32, patch_size=8, out_type='cls_token'),
            queue_len=8,
            neck=dict(type='mmssl.MLP', dims=(32, 16, 8), bias=True),
            head=dict(type='mmssl.MLP', dims=(8, 16, 8), bias=True),
        ),
        lambda model, dtype: moby_loss(model, images(dtype)),
        (),
    ),
    'DINOViT': (
        dict(arch=ARCH, img_size=32, patch_size=8),
        lambda model, dtype: model(images(dtype))[0],
        (2, 32),
    ),
    'DINOHead': (
        dict(in_dim=3, out_dim=16, hidden_dim=32, bottleneck_dim=8, norm_last_layer=False),
        lambda model, dtype: model((images(dtype),)),
        (2, 16),
    ),
    'DINO': (
        dict(
            backbone=dict(type='mmssl.DINOViT', arch=ARCH, img_size=32, patch_size=8),
            head=dict(type='mmssl.DINOHead', out_dim=16, hidden_dim=32, bottleneck_dim=8),
            num_crops=3,
        ),
        lambda model, dtype: model.loss([images(dtype), images(dtype).flip(3), images(dtype)[..., :16, :16]])[
            'loss'
        ],
        (),
    ),
    'InfoMaxEncoder': (
        dict(img_size=32, channels=(4, 6, 8), hidden=12),
        lambda model, dtype: model(images(dtype))[-1],
        (2, 12),
    ),
    'InfoMaxNet': (dict(in_channels=3, units=16), lambda model, dtype: model(images(dtype)), (2, 16, 1024)),
    'PriorDiscriminator': (
        dict(in_channels=3, hidden=(8, 4)),
        lambda model, dtype: model(images(dtype).mean((2, 3))),
        (2, 1),
    ),
    'DeepInfoMax': (
        dict(
            backbone=dict(type='mmssl.InfoMaxEncoder', channels=(4, 6, 8), hidden=12),
            alpha=1.0,
            local_channels=6,
            neck=dict(type='mmssl.MLP', dims=(12, 5), bias=True),
            global_channels=128,
            units=16,
            prior=dict(hidden=(8, 4)),
        ),
        lambda model, dtype: model.loss(images(dtype), prior=noise()[:, :5])['loss'],
        (),
    ),
    'SwAVNeck': (
        dict(in_channels=3, hid_channels=8, out_channels=4),
        lambda model, dtype: model([images(dtype)]),
        (2, 4),
    ),
    'SwAVHead': (
        dict(in_channels=3, num_prototypes=5),
        lambda model, dtype: model.loss(images(dtype).mean(3).transpose(1, 2)),
        (),
    ),
    'SwAV': (
        dict(
            backbone=dict(type='mmpretrain.ResNet', depth=18, stem_channels=8, base_channels=8),
            neck=dict(type='mmssl.SwAVNeck', in_channels=64, hid_channels=8, out_channels=4),
            head=dict(type='mmssl.SwAVHead', in_channels=4, num_prototypes=5),
            freeze_prototypes=0,
            queue_length=6,
        ),
        lambda model, dtype: swav_loss(model, images(dtype)),
        (),
    ),
    'BEiTViT': (
        dict(arch=ARCH, img_size=32, patch_size=8),
        lambda model, dtype: model(images(dtype), noise() < 0.4)[0],
        (2, 32, 4, 4),
    ),
    'BEiTHead': (
        dict(embed_dims=3, num_embed=5),
        lambda model, dtype: model(images(dtype).mean((2, 3))),
        (2, 5),
    ),
    'BEiT': (
        dict(
            backbone=dict(type='mmssl.BEiTViT', arch=ARCH, img_size=32, patch_size=8),
            tokenizer=dict(type='mmssl.KMeansTokenizer', checkpoint='random', num_tokens=5, patch_size=8),
        ),
        lambda model, dtype: model.loss(images(dtype), mask=noise().view(2, 4, 4) < 0.4)['loss'],
        (),
    ),
    'KMeansTokenizer': (
        dict(checkpoint='random', num_tokens=5, patch_size=8),
        lambda model, dtype: model(images(dtype)),
        (2, 5, 4, 4),
    ),
    'DALLEEncoder': (
        dict(checkpoint='random', num_tokens=5, n_hid=8),
        lambda model, dtype: model(images(dtype)),
        (2, 5, 4, 4),
    ),
    'PretextHead': (
        dict(in_channels=4, out_channels=8, num_inputs=2, hid_channels=16),
        lambda model, dtype: model(images(dtype)[:, 0, :4, :2].flatten(1)),
        (2, 8),
    ),
    'HDCResNet': (
        {key: value for key, value in SMALL_HDC.items() if key != 'type'},
        lambda model, dtype: model(images(dtype))[3],
        (2, 64, 4, 4),
    ),
    'GCNResNet': (
        dict(depth=50, stem_channels=8, base_channels=8, kernel_size=3),
        lambda model, dtype: model(images(dtype))[3],
        (2, 256, 1, 1),
    ),
    'DUCHead': (
        dict(in_channels=3, num_classes=5, factor=2, dilations=(1, 2), loss_decode=SEG_LOSS),
        lambda model, dtype: model([images(dtype)]),
        (2, 5, 64, 64),
    ),
    'GlobalConvHead': (
        dict(in_channels=[3, 3], strides=(4, 8), num_classes=5, kernel_size=5, loss_decode=SEG_LOSS),
        lambda model, dtype: model([images(dtype), images(dtype)[..., ::2, ::2]]),
        (2, 5, 128, 128),
    ),
    'EncoderDecoder': (
        dict(
            backbone=SMALL_HDC,
            test_cfg=dict(mode='whole'),
            decode_head=dict(
                type='mmssl.DUCHead', in_channels=64, in_index=3, num_classes=5, loss_decode=SEG_LOSS
            ),
        ),
        lambda model, dtype: model(images(dtype), mode='tensor'),
        (2, 5, 32, 32),
    ),
    'RotationPrediction': (
        dict(
            backbone=dict(type='mmpretrain.ResNet', depth=18, stem_channels=8, base_channels=8),
            head=dict(type='mmssl.PretextHead', in_channels=64),
        ),
        lambda model, dtype: model.loss([images(dtype)])['loss'],
        (),
    ),
    'RelativeLocation': (
        dict(
            backbone=dict(type='mmpretrain.ResNet', depth=18, stem_channels=8, base_channels=8),
            head=dict(type='mmssl.PretextHead', in_channels=64),
            patch_size=8,
            gap=4,
            jitter=0,
            drop_prob=0.0,
        ),
        lambda model, dtype: model.loss([images(dtype)])['loss'],
        (),
    ),
    'RFCNBBoxHead': (
        dict(in_channels=3, num_classes=4, roi_feat_size=3, hidden_channels=8, stride=1),
        lambda model, dtype: model(images(dtype), ROIS)[0],
        (3, 5),
    ),
    'RFCNRoIHead': (
        dict(bbox_head={**SMALL_RFCN, 'in_channels': 3, 'stride': 1, 'deformable': True}),
        lambda model, dtype: model((images(dtype),), proposals())[1],
        (3, 4),
    ),
    'RFCN': (
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
        lambda model, dtype: model(images(dtype), samples(), mode='tensor')[0][0],
        (3, 5),
    ),
    'PromptedInstanceSegmentor': (
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
        lambda model, dtype: model(images(dtype), samples(), mode='tensor')[0][0],
        (3, 5),
    ),
    'DilatedMobileNetV2': (
        dict(widen_factor=0.25),
        lambda model, dtype: model(images(dtype))[1],
        (2, 80, 2, 2),
    ),
    'DeformRoIExtractor': (
        dict(out_channels=4, featmap_strides=[1], in_channels=3, roi_feat_size=3),
        lambda model, dtype: model([images(dtype)], ROIS),
        (3, 4, 3, 3),
    ),
    'DeformConv': (
        dict(in_channels=3, out_channels=4, kernel_size=3, padding=1),
        lambda model, dtype: model(images(dtype)),
        (2, 4, 32, 32),
    ),
    'DCNv3': (
        dict(in_channels=3, out_channels=4, deform_groups=1),
        lambda model, dtype: model(images(dtype)),
        (2, 4, 32, 32),
    ),
    'DeformResNet': (
        dict(depth=18, stem_channels=8, base_channels=8),
        lambda model, dtype: model(images(dtype))[3],
        (2, 64, 1, 1),
    ),
}
MODELS.import_from_location()
MODELS.import_pending()
NAMES = sorted(MODELS.module_dict)


def build(name):
    torch.manual_seed(0)
    return MODELS.build(dict(type=f'mmssl.{name}', **copy.deepcopy(SMALL[name][0]))).eval()


def run(name, model, dtype=torch.float32):
    return SMALL[name][1](model, dtype)


def test_the_table_is_complete():
    assert set(NAMES) == set(SMALL)


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


@pytest.mark.parametrize('name', NAMES)
def test_runs_and_learns(name):
    model = build(name)
    out = run(name, model)
    assert (
        tuple(out.shape) == SMALL[name][2] and out.dtype == torch.float32 and bool(torch.isfinite(out).all())
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
            'assert ViT("tiny", img_size=32, patch_size=8)(torch.zeros(1, 3, 32, 32))[0].shape == (1, 192, 4, 4)',
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
