"""Segment Anything outside: names of transformers both ways, ONNX and torch.export."""

import numpy as np
import pytest
import torch

from mmssl.convert import from_official, to_official
from mmssl.promptable import build_sam

SIZE = 48
SIZES = dict(
    image_encoder=dict(
        img_size=SIZE,
        embed_dim=16,
        depth=2,
        num_heads=2,
        global_attn_indexes=(1,),
        window_size=2,
        out_chans=32,
    ),
    mask_decoder=dict(transformer=dict(depth=2, num_heads=4, mlp_dim=48), iou_head_hidden_dim=24),
)


def small_sam(seed=0, layers=2):
    torch.manual_seed(seed)
    model = build_sam(
        {
            **SIZES,
            'mask_decoder': {
                **SIZES['mask_decoder'],
                'transformer': dict(depth=layers, num_heads=4, mlp_dim=48),
            },
        }
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if 'rel_pos' in name:
                parameter.normal_(std=0.5)
    return model


def test_names_of_transformers_go_there_and_come_back():
    state = small_sam().state_dict()
    released = to_official('sam-hf', state)
    # written from transformers' modeling_sam.py: what the names there are
    for name, ours in {
        'vision_encoder.layers.1.attn.rel_pos_h': 'image_encoder.blocks.1.attn.rel_pos_h',
        'vision_encoder.layers.0.layer_norm2.bias': 'image_encoder.blocks.0.norm2.bias',
        'vision_encoder.neck.conv2.weight': 'image_encoder.neck.2.weight',
        'prompt_encoder.mask_embed.conv3.bias': 'prompt_encoder.mask_downscaling.6.bias',
        'prompt_encoder.point_embed.3.weight': 'prompt_encoder.point_embeddings.3.weight',
        'mask_decoder.transformer.layers.1.layer_norm4.weight': (
            'mask_decoder.transformer.layers.1.norm4.weight'
        ),
        'mask_decoder.output_hypernetworks_mlps.2.proj_out.weight': (
            'mask_decoder.output_hypernetworks_mlps.2.layers.2.weight'
        ),
        'mask_decoder.iou_prediction_head.layers.0.weight': (
            'mask_decoder.iou_prediction_head.layers.1.weight'
        ),
        'mask_decoder.upscale_conv2.bias': 'mask_decoder.output_upscaling.3.bias',
        'shared_image_embedding.positional_embedding': (
            'prompt_encoder.pe_layer.positional_encoding_gaussian_matrix'
        ),
        'prompt_encoder.shared_embedding.positional_embedding': (
            'prompt_encoder.pe_layer.positional_encoding_gaussian_matrix'
        ),
    }.items():
        assert torch.equal(released[name], state[ours]), name
    assert len(released) == len(state) + 1
    back = from_official('sam-hf', released)
    assert set(back) == set(state) and all(torch.equal(back[key], state[key]) for key in state)
    for tied in (
        'shared_image_embedding.positional_embedding',
        'prompt_encoder.shared_embedding.positional_embedding',
    ):
        item = {key: value for key, value in released.items() if key != tied}
        assert set(from_official('sam-hf', item)) == set(state), 'safetensors files hold one of the two'
    other = small_sam(1)
    other.load_state_dict(back, strict=True)


def test_a_file_of_transformers_that_does_not_fit_is_refused():
    released = to_official('sam-hf', small_sam().state_dict())
    released['mask_decoder.hf_mlp.weight'] = torch.zeros(2)
    with pytest.raises(ValueError, match='1 unknown: mask_decoder.hf_mlp.weight'):
        from_official('sam-hf', released)


def test_the_command_converts_and_build_sam_reads(tmp_path, warm_cli):
    model = small_sam()
    torch.save(to_official('sam-hf', model.state_dict()), tmp_path / 'hf.bin.pth')
    done = warm_cli('convert', 'sam-hf', 'hf.bin.pth', 'sam.pth', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    loaded = build_sam(SIZES, tmp_path / 'sam.pth')
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in loaded.state_dict().items())


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    pytest.importorskip('onnxscript')
    pytest.importorskip('onnxruntime')
    from mmssl.promptable.export import export_onnx

    model, folder = small_sam(layers=1), tmp_path_factory.mktemp('onnx')
    export_onnx(model, folder / 'encoder.onnx', folder / 'decoder.onnx')
    return model, folder


def run_onnx(path, **inputs):
    import onnxruntime

    return onnxruntime.InferenceSession(str(path)).run(
        None, {key: np.asarray(value, np.float32) for key, value in inputs.items()}
    )


def test_onnx_encoder_takes_any_number_and_size_of_images(exported):
    model, folder = exported
    for shape in ((1, 3, SIZE, SIZE), (3, 3, 20, SIZE), (2, 3, SIZE, 31)):
        images = torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 255
        with torch.no_grad():
            expected = model.image_encoder(model.preprocess(images))
        np.testing.assert_allclose(
            run_onnx(folder / 'encoder.onnx', image=images)[0], expected, atol=1e-4, rtol=1e-4
        )


def test_onnx_decoder_takes_any_number_of_prompts_and_points_and_any_size(exported):
    model, folder = exported
    generator = torch.Generator().manual_seed(2)
    maps = torch.randn(1, 32, 3, 3, generator=generator)
    for prompts, points, mask, size, inside in (
        (1, 1, 0, (37, 48), (37, 48)),
        (4, 3, 1, (97, 60), (48, 30)),
        (3, 20, 0, (30, 90), (16, 48)),
    ):
        coords = torch.rand(prompts, points, 2, generator=generator) * SIZE
        labels = torch.randint(-1, 4, (prompts, points), generator=generator)
        before = torch.randn(prompts, 1, 12, 12, generator=generator)
        masks, iou, logits = run_onnx(
            folder / 'decoder.onnx',
            image_embeddings=maps,
            point_coords=coords,
            point_labels=labels,
            mask_input=before,
            has_mask_input=[mask],
            orig_im_size=size,
        )
        with torch.no_grad():
            dense = (
                model.prompt_encoder.embed_masks(before) if mask else model.prompt_encoder.no_mask(prompts)
            )
            low, scores = model.mask_decoder.predict_masks(
                maps,
                model.prompt_encoder.get_dense_pe(),
                model.prompt_encoder.embed_points(coords, labels),
                dense,
            )
            full = model.postprocess_masks(low, inside, size)
        np.testing.assert_allclose(logits, low, atol=1e-4, rtol=1e-4)
        np.testing.assert_allclose(iou, scores, atol=1e-4, rtol=1e-4)
        np.testing.assert_allclose(masks, full, atol=1e-4, rtol=1e-4)


def test_exported_program_has_a_dynamic_batch():
    from mmssl.promptable.export import export_encoder

    model = small_sam()
    program = export_encoder(model).module()
    for count in (1, 3):
        images = torch.rand(count, 3, 30, SIZE) * 255
        with torch.no_grad():
            torch.testing.assert_close(
                program(images), model.image_encoder(model.preprocess(images)), atol=1e-5, rtol=1e-5
            )


@pytest.mark.compile
def test_export_writes_somewhere():
    from mmssl.promptable.export import export_onnx

    with pytest.raises(ValueError, match='encoder_path or decoder_path'):
        export_onnx(small_sam())
