"""Low-rank adaptation: initially no change, few trained weights, merging; embeddings on disk."""

import pytest
import torch
from torch import nn

from mmssl.layers.lora import LoRALinear, add_lora, merge_lora, plain_state_dict, trained_fraction
from mmssl.layers.module_state import fingerprint
from mmssl.promptable.embeddings import EmbeddingCache
from mmssl.promptable.image_encoder import SAMImageEncoder


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return SAMImageEncoder(
        img_size=64, embed_dim=32, depth=2, num_heads=2, out_chans=16, window_size=3, global_attn_indexes=(1,)
    )


def test_starts_as_it_was_and_changes_queries_and_values_only(encoder):
    x = torch.randn(1, 3, 64, 64)
    before = encoder(x)
    assert add_lora(encoder, rank=2) == ['blocks.0.attn.qkv', 'blocks.1.attn.qkv']
    assert torch.allclose(encoder(x), before, atol=1e-6)
    layer = encoder.blocks[0].attn.qkv
    nn.init.normal_(layer.lora_b)
    update = layer.update()
    assert update.shape == layer.weight.shape and bool((update[32:64] == 0).all())
    for part, rows in enumerate((update[:32], update[64:])):
        assert (
            torch.allclose(rows, layer.lora_b[part] @ layer.lora_a[part], atol=1e-6)
            and torch.linalg.matrix_rank(rows) == 2
        )


def test_the_update_alone_learns(encoder):
    add_lora(encoder, rank=2, alpha=4)
    frozen = {name: value.clone() for name, value in encoder.state_dict().items() if 'lora' not in name}
    optimizer = torch.optim.SGD(
        [parameter for parameter in encoder.parameters() if parameter.requires_grad], lr=1.0
    )
    encoder(torch.randn(1, 3, 64, 64)).square().sum().backward()
    optimizer.step()
    state = encoder.state_dict()
    assert all(torch.equal(state[name], value) for name, value in frozen.items())
    assert all(bool(state[name].any()) for name in state if name.endswith('lora_b'))
    assert {
        name.rpartition('.')[2] for name, parameter in encoder.named_parameters() if parameter.requires_grad
    } == {'lora_a', 'lora_b'}


def test_merged_weights_compute_the_same_under_the_plain_names(encoder):
    names = set(encoder.state_dict())
    add_lora(encoder, rank=2)
    for module in encoder.modules():
        if isinstance(module, LoRALinear):
            nn.init.normal_(module.lora_b, std=0.3)
    x = torch.randn(1, 3, 64, 64)
    out, plain = encoder(x), plain_state_dict(encoder)
    assert set(plain) == names and any(name.endswith('lora_a') for name in encoder.state_dict())
    merged = merge_lora(encoder)
    assert torch.allclose(merged(x), out, atol=1e-5)
    assert all(torch.equal(value, plain[name]) for name, value in merged.state_dict().items())


def test_few_parameters_of_a_vit_b_learn():
    from mmssl.promptable import build_sam

    with torch.device('meta'):
        sam = build_sam('vit_b')
        add_lora(sam.image_encoder, rank=4)
    assert trained_fraction(sam) <= 0.05


def test_errors():
    with pytest.raises(ValueError, match='Sequential has no linear layer named qkv'):
        add_lora(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(ValueError, match='rank=0'):
        LoRALinear(nn.Linear(2, 2), 0)
    with pytest.raises(ValueError, match='4 outputs in parts=3'):
        LoRALinear(nn.Linear(4, 4), 1, parts=3)


def test_embeddings_on_disk(encoder, tmp_path):
    encoder.eval()
    cache, images = EmbeddingCache(str(tmp_path)), torch.randn(3, 3, 64, 64)
    first = cache(encoder, images[:2])
    with torch.no_grad():
        expected = encoder(images)
    again = cache(encoder, images)  # two are there, one is new
    assert (cache.hits, cache.misses) == (2, 3)
    assert torch.equal(again[:2], first) and torch.allclose(again, expected, atol=5e-3)
    assert cache(encoder, images[:1].flip(3)).shape == (1, 16, 4, 4) and cache.misses == 4  # another image
    before = fingerprint(encoder)
    with torch.no_grad():
        encoder.patch_embed.proj.bias.add_(1)
    assert fingerprint(encoder) != before
    other = EmbeddingCache(str(tmp_path))(encoder, images[:1])
    assert not torch.allclose(other, first[:1], atol=1e-2)
    assert not list(tmp_path.rglob('*.part'))
    assert torch.equal(
        EmbeddingCache(tmp_path, torch.float32)(nn.MaxPool2d(16), images), nn.MaxPool2d(16)(images)
    )  # without weights
