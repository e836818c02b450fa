"""Released Swin and MoBY files in both directions: names, order of merged patches, shift masks, pointer."""

import pytest
import torch

from mmssl.convert import from_official, keymap, to_official
from mmssl.convert.swin import FAMILY, shift_mask
from mmssl.registry import MODELS

DIM, DEPTHS, HEADS, WINDOW, SIDE = 4, (2, 2, 2), (1, 2, 4), 4, 16
SWIN = dict(
    type='mmpretrain.SwinTransformer',
    arch=dict(embed_dims=DIM, depths=list(DEPTHS), num_heads=list(HEADS)),
    img_size=32,
    patch_size=2,
    window_size=WINDOW,
    out_indices=(2,),
    drop_path_rate=0.0,
)


def official_swin(stem='', dim=DIM, depths=DEPTHS, heads=HEADS, window=WINDOW, side=SIDE, patch=2, classes=0):
    """A state dict with the names of ``models/swin_transformer.py``, written out in their order."""
    generator = torch.Generator().manual_seed(len(stem))
    state = {}

    def add(name, *shape):
        state[stem + name] = torch.randn(shape, generator=generator) / 4

    add('patch_embed.proj.weight', dim, 3, patch, patch)
    add('patch_embed.proj.bias', dim)
    add('patch_embed.norm.weight', dim)
    add('patch_embed.norm.bias', dim)
    for stage, (depth, count) in enumerate(zip(depths, heads, strict=True)):
        width, ours = dim * 2**stage, side // 2**stage
        for block in range(depth):
            name = f'layers.{stage}.blocks.{block}'
            if block % 2 and ours > window:
                state[f'{stem}{name}.attn_mask'] = plain_mask(window, ours)
            add(f'{name}.norm1.weight', width)
            add(f'{name}.norm1.bias', width)
            add(f'{name}.attn.relative_position_bias_table', (2 * window - 1) ** 2, count)
            state[f'{stem}{name}.attn.relative_position_index'] = plain_index(window)
            add(f'{name}.attn.qkv.weight', 3 * width, width)
            add(f'{name}.attn.qkv.bias', 3 * width)
            add(f'{name}.attn.proj.weight', width, width)
            add(f'{name}.attn.proj.bias', width)
            add(f'{name}.norm2.weight', width)
            add(f'{name}.norm2.bias', width)
            add(f'{name}.mlp.fc1.weight', 4 * width, width)
            add(f'{name}.mlp.fc1.bias', 4 * width)
            add(f'{name}.mlp.fc2.weight', width, 4 * width)
            add(f'{name}.mlp.fc2.bias', width)
        if stage < len(depths) - 1:
            add(f'layers.{stage}.downsample.reduction.weight', 2 * width, 4 * width)
            add(f'layers.{stage}.downsample.norm.weight', 4 * width)
            add(f'layers.{stage}.downsample.norm.bias', 4 * width)
    add('norm.weight', width)
    add('norm.bias', width)
    if classes:
        add('head.weight', classes, width)
        add('head.bias', classes)
    return state


def plain_index(window):
    """Index of the relative position of two positions of a window (arXiv:2103.14030, section 3.2)."""
    positions = [(row, column) for row in range(window) for column in range(window)]
    return torch.tensor(
        [
            [(a - c + window - 1) * (2 * window - 1) + b - d + window - 1 for c, d in positions]
            for a, b in positions
        ]
    )


def plain_mask(window, side):
    """Places of a window of the shifted map that were no neighbours on the map before the shift."""
    shift = window // 2

    def region(
        position,
    ):  # of one axis: untouched windows, the rest of the last window, what came round from the other end
        return 0 if position < side - window else 1 if position < side - shift else 2

    windows = [
        [(region(row + r), region(column + c)) for r in range(window) for c in range(window)]
        for row in range(0, side, window)
        for column in range(0, side, window)
    ]
    return torch.tensor(
        [[[0.0 if a == b else -100.0 for b in positions] for a in positions] for positions in windows]
    )


class PlainSwin:
    """The released forward pass, from the paper and the layout of the released weights, with loops."""

    def __init__(self, state, depths, heads, window):
        self.state, self.depths, self.heads, self.window = state, depths, heads, window

    def norm(self, x, name):
        return torch.nn.functional.layer_norm(
            x, x.shape[-1:], self.state[f'{name}.weight'], self.state[f'{name}.bias']
        )

    def dense(self, x, name):
        out = x @ self.state[f'{name}.weight'].T
        return out + self.state[f'{name}.bias'] if f'{name}.bias' in self.state else out

    def attend(self, x, name, heads, mask):
        query, key, value = self.dense(x, f'{name}.qkv').chunk(3, dim=1)
        bias = self.state[f'{name}.relative_position_bias_table'][
            self.state[f'{name}.relative_position_index']
        ]
        outs = []
        for head, (q, k, v) in enumerate(
            zip(*(part.chunk(heads, dim=1) for part in (query, key, value)), strict=True)
        ):
            scores = q @ k.T / q.shape[1] ** 0.5 + bias[..., head]
            outs.append((scores if mask is None else scores + mask).softmax(dim=1) @ v)
        return self.dense(torch.cat(outs, dim=1), f'{name}.proj')

    def block(self, x, name, heads):
        side, window, mask = x.shape[0], self.window, self.state.get(f'{name}.attn_mask')
        shift = 0 if mask is None else window // 2
        moved = self.norm(x, f'{name}.norm1').roll((-shift, -shift), dims=(0, 1))
        out, number = torch.zeros_like(x), 0
        for row in range(0, side, window):
            for column in range(0, side, window):
                part = slice(row, row + window), slice(column, column + window)
                attended = self.attend(
                    moved[part].reshape(window**2, -1),
                    f'{name}.attn',
                    heads,
                    None if mask is None else mask[number],
                )
                out[part] = attended.view(window, window, -1)
                number += 1
        x = x + out.roll((shift, shift), dims=(0, 1))
        hidden = torch.nn.functional.gelu(self.dense(self.norm(x, f'{name}.norm2'), f'{name}.mlp.fc1'))
        return x + self.dense(hidden, f'{name}.mlp.fc2')

    def __call__(self, image):
        weight = self.state['patch_embed.proj.weight']
        x = torch.nn.functional.conv2d(
            image[None], weight, self.state['patch_embed.proj.bias'], stride=weight.shape[-1]
        )
        x = self.norm(x[0].permute(1, 2, 0), 'patch_embed.norm')
        for stage, (depth, heads) in enumerate(zip(self.depths, self.heads, strict=True)):
            for block in range(depth):
                x = self.block(x, f'layers.{stage}.blocks.{block}', heads)
            if stage < len(self.depths) - 1:  # the corners of 2x2 positions: down first, then right
                corners = [x[row::2, column::2] for column in range(2) for row in range(2)]
                x = self.norm(torch.cat(corners, dim=-1), f'layers.{stage}.downsample.norm')
                x = x @ self.state[f'layers.{stage}.downsample.reduction.weight'].T
        return self.norm(x, 'norm').permute(2, 0, 1)


def assert_equal(first, second):
    assert list(first) == list(second)
    assert all(
        torch.equal(first[key], second[key]) and first[key].dtype == second[key].dtype for key in first
    )


def test_swin_of_mmpretrain_computes_what_the_released_code_does():
    official = official_swin()
    state = from_official('swin', {'model': official}, prefix='')
    model = MODELS.build(dict(SWIN))
    assert torch.equal(model.stages[0].blocks[0].attn.w_msa.relative_position_index, plain_index(WINDOW))
    model.load_state_dict(state, strict=True)
    model.eval()  # the host's returns None
    image = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(
            model(image[None])[-1][0], PlainSwin(official, DEPTHS, HEADS, WINDOW)(image), atol=1e-5, rtol=1e-5
        )
        # the order of a merge matters: without it the names fit and the features do not
        renamed = {
            key: official[key.replace('stages', 'layers')] if 'downsample' in key else value
            for key, value in state.items()
        }
        model.load_state_dict(renamed, strict=True)
        assert not torch.allclose(
            model(image[None])[-1][0], PlainSwin(official, DEPTHS, HEADS, WINDOW)(image), atol=1e-2
        )


def test_merges_by_hand():
    """Channel c of corner (row, column) moves from (2 * column + row) * C + c to 4 * c + 2 * row + column."""
    official = official_swin()
    ours = from_official('swin', official)
    for stage, width in ((0, DIM), (1, 2 * DIM)):
        for name in ('norm.weight', 'norm.bias', 'reduction.weight'):
            released = official[f'layers.{stage}.downsample.{name}']
            converted = ours[f'backbone.stages.{stage}.downsample.{name}']
            for channel in range(width):
                for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
                    assert torch.equal(
                        released[..., (2 * column + row) * width + channel],
                        converted[..., 4 * channel + 2 * row + column],
                    )


@pytest.mark.parametrize(('window', 'side'), [(4, 16), (7, 28), (3, 6), (2, 4), (7, 7)])
def test_masks_are_the_released_ones(window, side):
    assert torch.equal(shift_mask(window, side), plain_mask(window, side))


@pytest.mark.parametrize('classes', [0, 10])
@pytest.mark.parametrize(
    ('depths', 'heads'), [((2, 2), (1, 2)), ((2, 2, 2), (1, 2, 4)), ((2, 2, 6, 2), (1, 1, 1, 1))]
)
def test_swin_round_trip(depths, heads, classes):
    official = official_swin(
        depths=depths, heads=heads, side=WINDOW * 2 ** (len(depths) - 1), classes=classes
    )
    assert sum(key.endswith('attn_mask') for key in official) == sum(depth // 2 for depth in depths[:-1])
    ours = from_official('swin', official)
    assert not any('mask' in key for key in ours) and ('head.fc.weight' in ours) == bool(classes)
    assert_equal(to_official('swin', ours), official)


def test_swin_t_of_the_release_has_the_hosts_names():
    official = official_swin(
        dim=96, depths=(2, 2, 6, 2), heads=(3, 6, 12, 24), window=7, side=56, patch=4, classes=1000
    )
    from mmpretrain.models import ImageClassifier

    model = ImageClassifier(
        backbone=dict(type='mmpretrain.SwinTransformer', arch='tiny'),
        head=dict(
            type='mmpretrain.LinearClsHead',
            num_classes=1000,
            in_channels=768,
            loss=dict(type='mmpretrain.CrossEntropyLoss'),
        ),
        data_preprocessor=dict(type='mmpretrain.ClsDataPreprocessor'),
    )
    ours = from_official('swin', official)
    assert {key: value.shape for key, value in ours.items()} == {
        key: value.shape for key, value in model.state_dict().items()
    }


def mlp(name, width, hidden=8, out=6):
    return {
        f'{name}.linear_hidden.1.weight': torch.randn(hidden, width),
        f'{name}.linear_hidden.1.bias': torch.randn(hidden),
        f'{name}.linear_hidden.2.weight': torch.randn(hidden),
        f'{name}.linear_hidden.2.bias': torch.randn(hidden),
        f'{name}.linear_hidden.2.running_mean': torch.randn(hidden),
        f'{name}.linear_hidden.2.running_var': torch.rand(hidden),
        f'{name}.linear_hidden.2.num_batches_tracked': torch.tensor(5),
        f'{name}.linear_out.weight': torch.randn(out, hidden),
        f'{name}.linear_out.bias': torch.randn(out),
    }


def vit_names(stem, width=16, depth=2):
    state = {
        'cls_token': (1, 1, width),
        'pos_embed': (1, 17, width),
        'patch_embed.proj.weight': (width, 3, 8, 8),
        'patch_embed.proj.bias': (width,),
    }
    for i in range(depth):
        for name, *shape in (
            ('norm1', width),
            ('attn.qkv', 3 * width, width),
            ('attn.proj', width, width),
            ('norm2', width),
            ('mlp.fc1', 4 * width, width),
            ('mlp.fc2', width, 4 * width),
        ):
            state |= {f'blocks.{i}.{name}.weight': shape, f'blocks.{i}.{name}.bias': shape[:1]}
    return {
        stem + key: torch.randn(*shape)
        for key, shape in (state | {'norm.weight': (width,), 'norm.bias': (width,)}).items()
    }


def official_moby(encoder):
    torch.manual_seed(0)
    width = 16
    names = vit_names if encoder == 'vit' else official_swin
    return {
        'queue1': torch.randn(6, 12),
        'queue2': torch.randn(6, 12),
        'queue_ptr': torch.tensor([8]),
        **names('encoder.'),
        **names('encoder_k.'),
        **mlp('projector', width),
        **mlp('projector_k', width),
        **mlp('predictor', 6),
    }


BACKBONES = {
    'swin': SWIN,
    'vit': dict(
        type='mmssl.ViT',
        img_size=32,
        patch_size=8,
        out_type='cls_token',
        arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=64),
    ),
}


@pytest.mark.parametrize('encoder', BACKBONES)
def test_moby_round_trip(encoder):
    official = official_moby(encoder)
    ours = from_official('moby', {'model': official, 'epoch': 300})
    model = MODELS.build(
        dict(
            type='mmssl.MoBY',
            backbone=dict(BACKBONES[encoder]),
            neck=dict(type='mmssl.MLP', dims=(16, 8, 6), bias=True),
            head=dict(type='mmssl.MLP', dims=(6, 8, 6), bias=True),
            queue_len=12,
        )
    )
    result = model.load_state_dict(ours, strict=True)
    assert not result.missing_keys and not result.unexpected_keys
    assert model.queue1.queue_ptr == model.queue2.queue_ptr == 8
    assert torch.equal(model.queue2.queue, official['queue2'])
    assert torch.equal(model.neck.fc1.weight, official['projector.linear_out.weight'])
    assert torch.equal(
        model.momentum_encoder.module[1].bn0.running_var, official['projector_k.linear_hidden.2.running_var']
    )
    assert torch.equal(model.head.fc0.bias, official['predictor.linear_hidden.1.bias'])
    target = model.momentum_encoder.module[0]
    if encoder == 'swin':
        assert torch.equal(
            target.stages[1].blocks[0].ffn.layers[1].weight,
            official['encoder_k.layers.1.blocks.0.mlp.fc2.weight'],
        )
    else:
        assert torch.equal(
            target.layers[1].ffn.layers[1].weight, official['encoder_k.blocks.1.mlp.fc2.weight']
        )
    back = to_official('moby', model.state_dict())
    assert set(back) == set(official)
    assert all(torch.equal(back[key], value) for key, value in official.items())
    assert_equal(to_official('moby', ours) | official, official | official)


def test_what_does_not_fit_is_refused():
    official = official_moby('swin')
    del official['encoder_k.layers.1.blocks.1.norm2.bias']
    with pytest.raises(ValueError, match=r'1 missing: encoder_k\.layers\.1\.blocks\.1\.norm2\.bias'):
        from_official('moby', official)
    official = official_moby('swin')
    official['encoder.layers.0.downsample.reduction.weight'] = torch.zeros(7, 15)
    with pytest.raises(
        ValueError,
        match=r'encoder\.layers\.0\.downsample\.reduction\.weight \(7, 15\), expected \(2C, 4C\) = \(8, 16\)',
    ):
        from_official('moby', official)
    ours = from_official('moby', official_moby('vit'))
    ours['queue2.queue_ptr'] = torch.tensor([9])
    with pytest.raises(ValueError, match='different pointers'):
        to_official('moby', ours)


def test_a_family_may_adapt_and_rename_at_once():
    plain = FAMILY._replace(adapt=None)
    official = official_swin()
    with pytest.raises(ValueError, match='2 unknown: .*attn_mask'):
        keymap.convert(plain, official, to_official=False)
