"""Caches give what they would compute anew, however images, weights or settings were changed."""

import concurrent.futures
import copy

import numpy as np
import pytest
import torch

from mmssl.layers.module_state import Snapshot
from mmssl.ops.switch import plain_forms
from mmssl.promptable import SamPredictor, build_sam
from mmssl.promptable.embeddings import EmbeddingCache

SMALL = dict(
    image_encoder=dict(
        depth=2,
        embed_dim=32,
        img_size=64,
        num_heads=4,
        patch_size=16,
        global_attn_indexes=[1],
        window_size=3,
        out_chans=32,
    ),
    mask_decoder=dict(transformer=dict(depth=2, embedding_dim=32, mlp_dim=32, num_heads=4)),
)
POINT = dict(point_coords=np.array([[20, 9]]), point_labels=np.array([1]))


def small_sam(**encoder):
    torch.manual_seed(0)
    sam = build_sam({**SMALL, 'image_encoder': {**SMALL['image_encoder'], **encoder}})
    with torch.no_grad():
        for parameter in sam.parameters():
            parameter.normal_(std=0.4)
    return sam


def image(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (40, 64, 3), dtype=np.uint8)


def swap_rows(tensor):
    """Swap two rows through ``.data``: same address, same version, same sums."""
    tensor.data[:2] = tensor.data[:2].flip(0).clone()


def mirror_signs(tensor):
    tensor.data.neg_()


def write_in_inference_mode(tensor):
    with torch.inference_mode():
        tensor.data.mul_(2)


WRITES = [swap_rows, mirror_signs, write_in_inference_mode]


@pytest.mark.parametrize('mode', [torch.no_grad, torch.inference_mode])
def test_an_embedding_in_a_reused_buffer_gives_the_mask_of_its_image(mode):
    model = small_sam()
    predictor, anew = SamPredictor(model), SamPredictor(copy.deepcopy(model))
    with mode():
        predictor.set_image(image(0))
        predictor.predict(**POINT)
        anew.set_image(image(1))
        for write in (
            lambda new: predictor.features.copy_(new),
            lambda new: predictor.features.data.copy_(new),
        ):
            write(anew.features)
            expected, got = anew.predict(**POINT)[2], predictor.predict(**POINT)[2]
            np.testing.assert_allclose(got, expected, atol=1e-5)
            write(anew.features.flip(1))
            predictor.predict(**POINT)


@pytest.mark.parametrize('write', WRITES)
@pytest.mark.parametrize(
    'name',
    [
        'prompt_encoder.no_mask_embed.weight',
        'prompt_encoder.pe_layer.positional_encoding_gaussian_matrix',
        'mask_decoder.transformer.layers.0.cross_attn_token_to_image.k_proj.weight',
        'mask_decoder.transformer.layers.1.cross_attn_image_to_token.q_proj.weight',
        'mask_decoder.transformer.layers.0.cross_attn_token_to_image.v_proj.weight',
        'mask_decoder.transformer.final_attn_token_to_image.k_proj.weight',
        'mask_decoder.output_upscaling.0.weight',
    ],
)
def test_weights_of_the_decoder_that_change_unseen_change_the_masks(name, write):
    model = small_sam()
    predictor = SamPredictor(model)
    predictor.set_image(image())
    before = predictor.predict(**POINT)[2]
    write(model.state_dict()[name])
    anew = SamPredictor(copy.deepcopy(model))
    anew.set_image(image())
    expected, got = anew.predict(**POINT)[2], predictor.predict(**POINT)[2]
    np.testing.assert_allclose(got, expected, atol=1e-5)
    if not (name.endswith('no_mask_embed.weight') and write is swap_rows):  # it has one row
        assert np.abs(expected - before).max() > 1e-4


@pytest.mark.parametrize('write', WRITES)
def test_the_folder_of_embeddings_follows_weights_that_change_unseen(tmp_path, write):
    model = small_sam()
    predictor = SamPredictor(model, cache_dir=tmp_path)
    predictor.set_image(image())
    before = predictor.features.clone()
    write(model.image_encoder.blocks[0].mlp.lin1.weight)
    predictor.set_image(image())
    anew = SamPredictor(model)
    anew.set_image(image())
    assert (anew.features - before).abs().max() > 1e-4
    torch.testing.assert_close(predictor.features, anew.features)


def test_the_folder_of_embeddings_knows_settings_preprocessing_and_autocast(tmp_path):
    first = SamPredictor(small_sam(), cache_dir=tmp_path)
    first.set_image(image())
    other_heads = small_sam(num_heads=4, window_size=3)
    for block in other_heads.image_encoder.blocks:
        block.attn.num_heads = 2
        block.attn.rel_pos_h = block.attn.rel_pos_w = None
    plain = small_sam()
    for block in plain.image_encoder.blocks:
        block.attn.rel_pos_h = block.attn.rel_pos_w = None
    darker = small_sam()
    darker.pixel_mean += 20
    for model in (plain, other_heads, darker):
        cached, anew = SamPredictor(model, cache_dir=tmp_path), SamPredictor(model)
        for predictor in (cached, anew):
            predictor.set_image(image())
        torch.testing.assert_close(cached.features, anew.features)
        assert cached.cache.hits == 0
    again = SamPredictor(small_sam(), cache_dir=tmp_path)
    with torch.autocast('cpu', torch.bfloat16):
        again.set_image(image())
    assert again.cache.hits == 0
    again.set_image(image())
    assert again.cache.hits == 1


def test_an_encoder_with_a_hook_has_embeddings_of_its_own(tmp_path):
    model = small_sam()
    cache = EmbeddingCache(tmp_path, torch.float32)
    pixels = torch.rand(1, 3, 64, 64)
    plain = cache(model.image_encoder, pixels)
    model.image_encoder.register_forward_hook(lambda *call: call[-1] * 2)
    torch.testing.assert_close(cache(model.image_encoder, pixels), plain * 2)


def test_a_snapshot_compares_values_types_and_shapes():
    tensor = torch.arange(6.0)
    snapshot = Snapshot([tensor])
    assert snapshot.matches([tensor.clone()])
    assert not snapshot.matches([tensor.double()])
    assert not snapshot.matches([tensor.view(2, 3)])
    assert not snapshot.matches([tensor, tensor])
    tensor.data[0] = 9
    assert not snapshot.matches([tensor])


def double(module):
    """Give a module a ``forward`` of its own, as adapters and hooks of other libraries do."""
    plain = module.forward
    module.forward = lambda *args, **kwargs: 2 * plain(*args, **kwargs)


def adapt(block):
    class Adapted(type(block)):
        def forward(self, *args, **kwargs):
            queries, keys = super().forward(*args, **kwargs)
            return 1.5 * queries, keys

    block.__class__ = Adapted


CHANGES = {
    'adapter': lambda decoder: adapt(decoder.transformer.layers[0]),
    'own forward': lambda decoder: double(decoder.transformer.layers[0].cross_attn_token_to_image.k_proj),
    'attention': lambda decoder: double(decoder.transformer.final_attn_token_to_image),
    'activation': lambda decoder: setattr(decoder.output_upscaling[2], 'approximate', 'tanh'),
}


@pytest.mark.parametrize('change', CHANGES.values(), ids=CHANGES)
def test_layers_of_the_decoder_that_are_changed_are_used(change):
    model = small_sam()
    predictor = SamPredictor(model)
    predictor.set_image(image())
    before = predictor.predict(**POINT)[2]
    change(model.mask_decoder)
    got = predictor.predict(**POINT)[2]
    with plain_forms():
        expected = predictor.predict(**POINT)[2]
    assert np.abs(expected - before).max() > 1e-4
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_two_hooks_of_one_name_do_not_share_embeddings(tmp_path):
    cache, pixels = EmbeddingCache(tmp_path, torch.float32), torch.rand(1, 3, 64, 64)
    for factor in (2, 3):
        encoder = small_sam().image_encoder
        encoder.register_forward_hook(lambda *call, factor=factor: call[-1] * factor)
        torch.testing.assert_close(cache(encoder, pixels), encoder(pixels))


def test_threads_share_a_folder_of_embeddings(tmp_path):
    encoder, pixels = small_sam().image_encoder, torch.rand(1, 3, 64, 64)
    caches = [EmbeddingCache(tmp_path, torch.float32) for _ in range(8)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        embeddings = list(pool.map(lambda cache: cache(encoder, pixels), caches))
    assert all(torch.equal(each, embeddings[0]) for each in embeddings)
