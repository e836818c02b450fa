"""Prompt encoder and mask decoder: against the official package, and several images in one call."""

import copy

import pytest
import torch
from torch import nn

from mmssl.ops.switch import plain_forms
from mmssl.promptable import SAMMaskDecoder, SAMPromptEncoder, build_sam
from mmssl.promptable.fast.folded_attention import folding_pays
from mmssl.promptable.two_way import Attention

WIDTH, GRID, SIZE = 64, 6, 96
DECODER = dict(transformer_dim=WIDTH, transformer=dict(num_heads=4, mlp_dim=96), iou_head_hidden_dim=32)
KINDS = [
    ('points',),
    ('boxes',),
    ('masks',),
    ('points', 'boxes'),
    ('points', 'masks'),
    ('boxes', 'masks'),
    ('points', 'boxes', 'masks'),
    (),
]


def randomised(module, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            fan = parameter[0].numel() if parameter.ndim > 1 and not name.endswith('token.weight') else 25
            parameter.copy_(
                torch.randn(parameter.shape, generator=generator) * fan**-0.5
                + (parameter.ndim == 1 and 'norm' in name and name.endswith('weight'))
            )
    return module.eval()


def parts():
    prompt = randomised(SAMPromptEncoder(WIDTH, (GRID, GRID), (SIZE, SIZE)))
    prompt.pe_layer.positional_encoding_gaussian_matrix.normal_(generator=torch.Generator().manual_seed(5))
    return prompt, randomised(SAMMaskDecoder(**DECODER))


def official_parts(prompt, decoder):
    official = pytest.importorskip('segment_anything.modeling')
    theirs = (
        official.PromptEncoder(
            embed_dim=WIDTH,
            image_embedding_size=(GRID, GRID),
            input_image_size=(SIZE, SIZE),
            mask_in_chans=16,
        ),
        official.MaskDecoder(
            transformer_dim=WIDTH,
            iou_head_hidden_dim=32,
            transformer=official.TwoWayTransformer(depth=2, embedding_dim=WIDTH, num_heads=4, mlp_dim=96),
        ),
    )
    for mine, their in zip((prompt, decoder), theirs, strict=True):
        their.load_state_dict(mine.state_dict(), strict=True)
        assert list(mine.state_dict()) == list(their.state_dict())
    return theirs


def prompts(count, points=3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, 2, generator=generator) * SIZE
    return {
        'points': (
            torch.rand(count, points, 2, generator=generator, dtype=torch.float64) * SIZE,
            torch.randint(-1, 2, (count, points), generator=generator),
        ),
        'boxes': torch.cat([corners.amin(1), corners.amax(1)], 1),
        'masks': torch.randn(count, 1, 4 * GRID, 4 * GRID, generator=generator) * 4,
    }


def selected(kind, all_prompts):
    return {name: value if name in kind else None for name, value in all_prompts.items()}


def image(count=1, seed=2):
    return torch.randn(count, WIDTH, GRID, GRID, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize('kind', KINDS, ids='+'.join)
@pytest.mark.parametrize('points', [3, 20])  # few: projections folded into the tokens; many: made
def test_every_kind_of_prompt_equals_the_official_decoder(kind, points):
    mine, theirs = parts(), official_parts(*parts())
    request = selected(kind, prompts(4, points))
    with torch.no_grad():
        sparse, dense = mine[0](**request)
        their_sparse, their_dense = theirs[0](**request)
        assert torch.equal(sparse, their_sparse), 'coordinates in float64 are divided in float64'
        torch.testing.assert_close(dense, their_dense, atol=1e-5, rtol=1e-5)
        pe = mine[0].get_dense_pe()
        assert torch.equal(pe, theirs[0].get_dense_pe())
        for multimask in (True, False):
            logits, iou = mine[1](image(), pe, sparse, dense, multimask)
            expected = theirs[1](
                image_embeddings=image(),
                image_pe=pe,
                sparse_prompt_embeddings=their_sparse,
                dense_prompt_embeddings=their_dense,
                multimask_output=multimask,
            )
            assert expected[0].std() > 0.1 and logits.shape == (
                len(sparse),
                3 if multimask else 1,
                4 * GRID,
                4 * GRID,
            )
            torch.testing.assert_close(logits, expected[0], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(iou, expected[1], atol=1e-5, rtol=1e-5)


def test_float32_and_float64_coordinates_differ_as_in_the_official_code():
    prompt, _ = parts()
    position = torch.tensor([[[77.3, 3.7]]], dtype=torch.float64)
    labels = torch.ones(1, 1)
    assert not torch.equal(
        prompt.embed_points(position, labels), prompt.embed_points(position.float(), labels)
    )
    torch.testing.assert_close(
        prompt.embed_points(position, labels),
        prompt.embed_points(position.float(), labels),
        atol=1e-4,
        rtol=1e-4,
    )


def test_tokens_of_points_by_hand():
    prompt, _ = parts()
    matrix = prompt.pe_layer.positional_encoding_gaussian_matrix
    waves = 2 * torch.pi * ((2 * torch.tensor([(10 + 0.5) / SIZE, (20 + 0.5) / SIZE]) - 1) @ matrix)
    position = torch.cat([waves.sin(), waves.cos()])
    sparse, dense = prompt((torch.tensor([[[10, 20]] * 3]), torch.tensor([[0, 1, -1]])), None, None)
    kinds = [item.weight[0] for item in prompt.point_embeddings]
    expected = torch.stack(
        [
            position + kinds[0],
            position + kinds[1],
            prompt.not_a_point_embed.weight[0],
            prompt.not_a_point_embed.weight[0],
        ]
    )
    torch.testing.assert_close(sparse[0], expected, atol=1e-4, rtol=1e-4)
    assert dense.stride(2) == 0 and torch.equal(dense[0, :, 2, 3], prompt.no_mask_embed.weight[0])
    corners, _ = prompt(None, torch.tensor([[10.0, 20.0, 10.0, 20.0]]), None)
    torch.testing.assert_close(
        corners[0], torch.stack([position + kinds[2], position + kinds[3]]), atol=1e-4, rtol=1e-4
    )


def test_gradients_equal_the_official_decoder():
    mine, theirs = parts(), official_parts(*parts())
    grads = []
    for prompt, decoder in (mine, theirs):
        for kind in (('points',), ('points', 'masks')):
            maps = image().requires_grad_()
            sparse, dense = prompt(**selected(kind, prompts(2)))
            logits, iou = decoder(
                image_embeddings=maps,
                image_pe=prompt.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=True,
            )
            weights = torch.linspace(-1, 1, logits.numel()).view_as(logits)
            parameters = [maps, *prompt.parameters(), *decoder.parameters()]
            grads.append(
                torch.autograd.grad((logits * weights).sum() + iou.sum(), parameters, allow_unused=True)
            )
    for mine, theirs in ((grads[0], grads[2]), (grads[1], grads[3])):
        for number, (item, other) in enumerate(zip(mine, theirs, strict=True)):
            # what they multiply and throw away has a zero there and none here; a bias of keys has no gradient
            # but rounding
            item = torch.zeros(1) if item is None else item
            other = torch.zeros(1) if other is None else other
            assert (item - other).abs().max() <= 2e-4 * max(1.0, float(other.abs().max())), number


def model():
    built = build_sam(
        dict(
            image_encoder=dict(
                img_size=SIZE, embed_dim=16, depth=1, num_heads=2, global_attn_indexes=(0,), out_chans=WIDTH
            ),
            mask_decoder=DECODER,
        )
    )
    built.prompt_encoder, built.mask_decoder = parts()
    return built


def test_images_with_other_numbers_of_prompts_and_points_in_one_call():
    sam, maps = model(), image(4)
    ask = [prompts(3, 1, 1), prompts(2, 4, 2), prompts(1, 2, 3), prompts(5, 2, 4)]
    request = [
        dict(zip(('point_coords', 'point_labels'), ask[0]['points'], strict=True)),
        dict(boxes=ask[1]['boxes'], mask_inputs=ask[1]['masks']),
        dict(point_coords=ask[2]['points'][0], point_labels=ask[2]['points'][1], boxes=ask[2]['boxes']),
        dict(
            point_coords=[row[: 1 + number % 2] for number, row in enumerate(ask[3]['points'][0])],
            point_labels=[row[: 1 + number % 2] for number, row in enumerate(ask[3]['points'][1])],
        ),
    ]
    for chosen in ([0, 1, 2, 3], [0, 2, 3]):  # with masks and without
        with torch.no_grad():
            together = sam.decode(maps[chosen], [request[number] for number in chosen], True)
            for number, (logits, iou) in zip(chosen, together, strict=True):
                item, record = maps[number : number + 1], request[number]
                if number == 3:
                    apart = [
                        sam.decode(item, [dict(point_coords=coords[None], point_labels=labels[None])], True)[
                            0
                        ]
                        for coords, labels in zip(record['point_coords'], record['point_labels'], strict=True)
                    ]
                    apart = [torch.cat(values) for values in zip(*apart, strict=True)]
                else:
                    sparse, dense = sam.prompt_encoder(
                        points=(record['point_coords'], record['point_labels'])
                        if 'point_coords' in record
                        else None,
                        boxes=record.get('boxes'),
                        masks=record.get('mask_inputs'),
                    )
                    apart = sam.mask_decoder(item, sam.prompt_encoder.get_dense_pe(), sparse, dense, True)
                torch.testing.assert_close(logits, apart[0], atol=1e-5, rtol=1e-5)
                torch.testing.assert_close(iou, apart[1], atol=1e-5, rtol=1e-5)


def test_as_many_prompts_as_images_in_another_order():
    prompt, decoder = parts()
    with torch.no_grad():
        for kind in (('points',), ('points', 'masks')):
            sparse, dense = prompt(**selected(kind, prompts(3)))
            order = torch.tensor([2, 0, 0])
            got = decoder(image(3), prompt.get_dense_pe(), sparse, dense, True, image_index=order)
            each = decoder(image(3)[order], prompt.get_dense_pe(), sparse, dense, True)
            assert all(torch.allclose(*pair, atol=1e-5) for pair in zip(got, each, strict=True))


def test_an_image_with_no_prompt_left_gets_no_mask():
    sam = model()
    none = dict(boxes=torch.zeros(0, 4))
    with torch.no_grad():
        (logits, iou), (other, _) = sam.decode(
            image(2), [none, dict(boxes=torch.tensor([[1.0, 2.0, 30.0, 40.0]]))], False
        )
    assert logits.shape == (0, 1, 4 * GRID, 4 * GRID) and iou.shape == (0, 1) and len(other) == 1


@pytest.mark.parametrize('write', ['in place', 'through .data'])
@pytest.mark.parametrize('name', ['image', 'dense', 'positions', 'weight'])
def test_what_is_kept_of_an_image_is_never_stale(name, write):
    prompt, decoder = parts()
    sparse, dense = prompt(prompts(2)['points'], None, None)
    inputs = dict(image=image(), positions=prompt.get_dense_pe(), dense=dense[:1].clone())
    inputs['weight'] = decoder.transformer.layers[0].cross_attn_token_to_image.v_proj.weight

    def decode(decoder):
        with torch.no_grad():
            return decoder(inputs['image'], inputs['positions'], sparse, inputs['dense'], True)

    before = decode(decoder)
    assert all(torch.equal(*pair) for pair in zip(before, decode(decoder), strict=True))
    if write == 'in place':
        with torch.no_grad():
            inputs[name].mul_(-2)
    else:
        inputs[name].data.mul_(-2)
    after = decode(decoder)
    with plain_forms():
        expected = decode(copy.deepcopy(decoder))
    for got, reference, old in zip(after, expected, before, strict=True):
        torch.testing.assert_close(got, reference, atol=1e-4, rtol=1e-4)
        assert (got - old).abs().max() > 1e-2


def test_layers_that_were_exchanged_or_have_hooks_are_called():
    prompt, decoder = parts()
    sparse, dense = prompt(prompts(2)['points'], None, None)
    call = (image(), prompt.get_dense_pe(), sparse, dense, True)
    with torch.no_grad():
        before = decoder(*call)[0]
        attention = decoder.transformer.layers[1].cross_attn_image_to_token
        handle = attention.q_proj.register_forward_hook(lambda module, args, out: out * 2)
        hooked = decoder(*call)[0]
        handle.remove()
        assert torch.equal(decoder(*call)[0], before)

        class Doubled(nn.Linear):
            def forward(self, x):
                return 2 * super().forward(x)

        attention.q_proj.__class__ = Doubled
        exchanged = decoder(*call)[0]
    torch.testing.assert_close(hooked, exchanged)
    assert (hooked - before).abs().max() > 1e-3


def test_bfloat16_and_autocast_are_near():
    prompt, decoder = parts()
    with torch.no_grad():
        exact = decoder(image(), prompt.get_dense_pe(), *prompt(prompts(3)['points'], None, None), True)
        with torch.autocast('cpu', torch.bfloat16):
            auto = decoder(image(), prompt.get_dense_pe(), *prompt(prompts(3)['points'], None, None), True)
        half = copy.deepcopy(prompt).bfloat16(), copy.deepcopy(decoder).bfloat16()
        low = half[1](
            image().bfloat16(), half[0].get_dense_pe(), *half[0](prompts(3)['points'], None, None), True
        )
    for logits, iou in (auto, low):
        assert (logits.float() - exact[0]).abs().mean() < 0.05 * exact[0].abs().mean()
        assert (iou.float() - exact[1]).abs().max() < 0.1 * exact[1].abs().max()
    assert low[0].dtype == torch.bfloat16


def test_folding_is_chosen_by_the_number_of_tokens():
    attention = Attention(256, 8, 2)
    assert [folding_pays(attention, number) for number in (7, 16, 18)] == [True, True, False]


def test_wrong_prompts_are_named():
    prompt, decoder = parts()
    with pytest.raises(ValueError, match=r'\(1, 2, 2\) with labels of shape \(1, 3\)'):
        prompt((torch.zeros(1, 2, 2), torch.zeros(1, 3)), None, None)
    with pytest.raises(ValueError, match=r"different numbers of prompts: \{'points': 1, 'boxes': 2\}"):
        prompt((torch.zeros(1, 2, 2), torch.zeros(1, 2)), torch.zeros(2, 4), None)
    with pytest.raises(ValueError, match=r'give \(B, 1, 24, 24\)'):
        prompt(None, None, torch.zeros(1, 1, 256, 256))
    with pytest.raises(ValueError, match='boxes of shape'):
        prompt(None, torch.zeros(1, 3), None)
    sparse, dense = prompt(None, torch.zeros(3, 4), None)
    with pytest.raises(ValueError, match='2 images for 3 prompts; give image_index'):
        decoder(image(2), prompt.get_dense_pe(), sparse, dense, True)
    with pytest.raises(ValueError, match='do not fit dense prompts'):
        decoder(image()[..., :4], prompt.get_dense_pe(), sparse, dense, True)
    with pytest.raises(ValueError, match='come together'):
        model().decode(image(), [dict(point_coords=torch.zeros(1, 1, 2))], True)
    with pytest.raises(ValueError, match='prompts of 1 images for 2 embeddings'):
        model().decode(image(2), [dict(boxes=torch.zeros(1, 4))], True)
    with pytest.raises(ValueError, match='width of the transformer'):
        SAMMaskDecoder(transformer_dim=32, transformer=dict(embedding_dim=64))
