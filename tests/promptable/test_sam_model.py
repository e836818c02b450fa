"""The whole promptable segmenter: against the official class, by name and config, compiled, in bfloat16."""

import copy
import subprocess
import sys

import pytest
import torch

from mmssl.promptable import SAM, SAMBackbone, build_sam
from mmssl.registry import MODELS

SIZE = 96
ENCODER = dict(
    img_size=SIZE, embed_dim=32, depth=3, num_heads=2, global_attn_indexes=(1,), window_size=4, out_chans=32
)
SIZES = dict(
    image_encoder=ENCODER,
    mask_decoder=dict(transformer=dict(num_heads=4, mlp_dim=64), iou_head_hidden_dim=32),
)


def batch(dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)

    def pixels(*shape):
        return torch.rand(3, *shape, generator=generator) * 255

    return [
        {
            'image': pixels(64, 96),
            'original_size': (100, 150),
            'point_coords': torch.tensor([[[10.0, 20.0]], [[50.0, 33.0]]], dtype=dtype),
            'point_labels': torch.ones(2, 1),
        },
        {
            'image': pixels(96, 50),
            'original_size': (48, 25),
            'boxes': torch.tensor([[5.0, 6.0, 40.0, 80.0], [0.0, 0.0, 49.0, 95.0], [9.0, 9.0, 12.0, 30.0]]),
        },
        {
            'image': pixels(96, 96),
            'original_size': (96, 96),
            'point_coords': torch.tensor([[[10.0, 20.0], [70.0, 30.0]]]),
            'point_labels': torch.tensor([[1, 0]]),
            'boxes': torch.tensor([[5.0, 6.0, 90.0, 80.0]]),
            'mask_inputs': torch.randn(1, 1, 24, 24, generator=generator),
        },
    ]


@pytest.mark.parametrize('multimask', [True, False])
@pytest.mark.parametrize('masks', [True, False])
def test_outputs_of_the_official_class(official_sam, multimask, masks):
    theirs, ours = official_sam(ENCODER), build_sam(SIZES)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    records = batch(torch.float64) if masks else batch()[:2]
    for mine, their in zip(ours(records, multimask), theirs(records, multimask), strict=True):
        assert set(mine) == set(their) and all(mine[key].shape == their[key].shape for key in their)
        assert their['low_res_logits'].std() > 0.02
        torch.testing.assert_close(mine['low_res_logits'], their['low_res_logits'], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(mine['iou_predictions'], their['iou_predictions'], atol=1e-5, rtol=1e-5)
        assert torch.equal(mine['masks'], their['masks']), 'the same masks, bit by bit'


def test_files_go_both_ways(official_sam, tmp_path):
    theirs = official_sam(ENCODER)
    torch.save(theirs.state_dict(), tmp_path / 'sam.pth')
    ours = build_sam(SIZES, tmp_path / 'sam.pth')
    assert list(ours.state_dict()) == list(theirs.state_dict()) and not ours.training
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.mul_(0.9)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    records = batch()[:2]
    assert torch.equal(theirs(records, True)[1]['masks'], ours(records, True)[1]['masks'])
    broken = dict(theirs.state_dict())
    broken.pop('mask_decoder.iou_token.weight')
    torch.save(broken, tmp_path / 'broken.pth')
    with pytest.raises(RuntimeError, match='mask_decoder.iou_token.weight'):
        build_sam(SIZES, tmp_path / 'broken.pth')


# encoder, prompt encoder and decoder
@pytest.mark.parametrize(
    ('kind', 'keys'), [('vit_b', 177 + 17 + 120), ('vit_l', 345 + 17 + 120), ('vit_h', 457 + 17 + 120)]
)
def test_the_official_kinds_have_the_official_names_and_shapes(kind, keys):
    package = pytest.importorskip('segment_anything')
    with torch.device('meta'):
        theirs, ours = package.sam_model_registry[kind](), build_sam(kind)
    shapes = [{key: value.shape for key, value in model.state_dict().items()} for model in (ours, theirs)]
    assert shapes[0] == shapes[1]
    assert len(ours.state_dict()) == keys
    assert (ours.image_encoder.img_size, ours.image_format, ours.mask_threshold) == (1024, 'RGB', 0.0)


def test_mobile_sam_has_the_names_of_its_file():
    with torch.device('meta'):
        state = build_sam('vit_t').image_encoder.state_dict()
    for key, shape in {
        'patch_embed.seq.0.c.weight': (32, 3, 3, 3),
        'layers.0.blocks.1.conv2.bn.running_var': (256,),
        'layers.2.downsample.conv2.c.weight': (320, 1, 3, 3),
        'layers.2.blocks.5.attn.attention_biases': (5, 196),
        'layers.3.blocks.1.local_conv.c.weight': (320, 1, 3, 3),
        'layers.1.blocks.0.mlp.fc1.weight': (512, 128),
        'layers.3.blocks.0.attn.norm.weight': (320,),
        'norm_head.weight': (320,),
        'head.weight': (1000, 320),
        'neck.2.weight': (256, 256, 3, 3),
    }.items():
        assert tuple(state[key].shape) == shape
    assert not any('attention_bias_idxs' in key for key in state)


def test_wrong_kinds_and_parts_are_named():
    with pytest.raises(ValueError, match="no model 'vit_x'; there are vit_b, vit_l, vit_h, vit_t"):
        build_sam('vit_x')
    with pytest.raises(ValueError, match="unknown parts \\['encoder'\\]"):
        build_sam(dict(encoder=ENCODER))
    with pytest.raises(ValueError, match='32, 32 and 64 wide'):
        build_sam(dict(image_encoder=ENCODER, mask_decoder=dict(transformer_dim=64)))
    with pytest.raises(ValueError, match='SAMBackbone'):
        SAM(torch.nn.Conv2d(3, 8, 16, 16))
    with pytest.raises(ValueError, match='resize its longest side to 96'):
        build_sam(SIZES).preprocess(torch.zeros(3, 50, 100))


def test_any_backbone_from_a_config():
    arch = dict(embed_dims=32, num_layers=2, num_heads=4, feedforward_channels=64)
    model = MODELS.build(
        dict(
            type='mmssl.SAM',
            image_encoder=dict(
                type='mmssl.SAMBackbone',
                backbone=dict(type='mmssl.ViT', arch=arch, img_size=64),
                in_channels=32,
                img_size=64,
                out_chans=32,
            ),
            mask_decoder=dict(transformer=dict(num_heads=4, mlp_dim=64)),
        )
    )
    assert isinstance(model.image_encoder, SAMBackbone) and model.prompt_encoder.input_image_size == (64, 64)
    model.init_weights()
    (out,) = model(
        [
            {
                'image': torch.rand(3, 40, 64) * 255,
                'original_size': (20, 32),
                'boxes': torch.tensor([[3.0, 4.0, 50.0, 30.0]]),
            }
        ],
        False,
    )
    assert out['masks'].shape == (1, 1, 20, 32) and out['masks'].dtype == torch.bool


def test_preprocessing_by_hand():
    model = build_sam(SIZES)
    image = torch.full((3, 40, 96), 123.675)
    out = model.preprocess(image)
    assert (
        out.shape == (3, 96, 96) and torch.equal(out[0, :40], torch.zeros(40, 96)) and not out[:, 40:].any()
    )
    torch.testing.assert_close(out[1, 0, 0], torch.tensor((123.675 - 116.28) / 57.12))
    assert model.device == torch.device('cpu') and not any('pixel' in key for key in model.state_dict())


def test_half_precision_is_near(official_sam):
    model = build_sam(SIZES)
    model.load_state_dict(official_sam(ENCODER).state_dict())
    half = copy.deepcopy(model).bfloat16()
    images = torch.stack([model.preprocess(record['image']) for record in batch()[2:]])
    with torch.no_grad():
        exact, low = model.image_encoder(images), half.image_encoder(images.bfloat16())
        with torch.autocast('cpu', torch.bfloat16):
            auto = model.image_encoder(images)
    for maps in (low, auto):
        assert (maps.float() - exact).abs().mean() < 0.05 * exact.abs().mean()


@pytest.mark.compile
def test_compiled_parts_give_the_same():
    model = build_sam(SIZES)
    images = torch.stack([model.preprocess(batch()[2]['image'])])
    with torch.no_grad():
        maps = model.image_encoder(images)
        sparse, dense = model.prompt_encoder((torch.rand(2, 1, 2) * SIZE, torch.ones(2, 1)), None, None)
        expected = model.mask_decoder(maps, model.prompt_encoder.get_dense_pe(), sparse, dense, True)
        encoder = torch.compile(model.image_encoder, backend='eager', fullgraph=True)
        decoder = torch.compile(model.mask_decoder, backend='eager', fullgraph=True)
        torch.testing.assert_close(encoder(images), maps, atol=1e-5, rtol=1e-5)
        got = decoder(maps, model.prompt_encoder.get_dense_pe(), sparse, dense, True)
    for mine, other in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-5)


def test_importing_needs_no_toolbox(repo_root):
    """Nor does what evaluates and converts."""
    code = (
        'import sys, mmssl.promptable, mmssl.evaluation, mmssl.convert\n'
        'packages = ("mmdet", "mmseg", "mmpretrain", "mmcv", "segment_anything", "onnx")\n'
        'print([package for package in packages if package in sys.modules])'
    )
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, cwd=repo_root, timeout=120
    )
    assert done.stdout.strip() == '[]', done.stdout + done.stderr[-2000:]
