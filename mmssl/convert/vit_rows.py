"""Rows of vision transformers with registers, layer scale, SwiGLU and rotary positions, in any spelling."""

from typing import NamedTuple

from mmssl.convert.keymap import Row, weights_and_biases


class Spelling(NamedTuple):
    """Names of a release.

    Attributes:
        stem: Names of class token, registers and position table.
        patch: Name of the patch projection.
        block: Name of a block, with ``{i}`` for its index.
        attention: Names, in a block, of the joined projection and the output projection.
        norms: Names, in a block, of the two norms.
        scales: Names, in a block, of the two layer scales.
        mlp: Names, in a block, of the two layers of the feed-forward network.
        gated: Names, in a block, of the joined and the last layer of a SwiGLU network.
        norm: Name of the last norm.
    """

    stem: tuple[str, str, str]
    patch: str
    block: str
    attention: tuple[str, str]
    norms: tuple[str, str]
    scales: tuple[str, str]
    mlp: tuple[str, str]
    gated: tuple[str, str]
    norm: str


class Variant(NamedTuple):
    """Parts of a vision transformer.

    Attributes:
        cls_token: There is a class token.
        registers: There are register tokens.
        table: There is a position table.
        bias: Biases of queries, keys and values: 'qkv', 'qv' or ''.
        scale: There is a layer scale.
        gated: The feed-forward network is SwiGLU.
    """

    cls_token: bool = True
    registers: bool = False
    table: bool = True
    bias: str = 'qkv'
    scale: bool = True
    gated: bool = False


# a class token, then the variants that were released
DINOV2 = Variant()
DINOV2_GIANT = Variant(gated=True)
DINOV2_REG = Variant(registers=True)
DINOV2_REG_GIANT = Variant(registers=True, gated=True)
_DINOV3 = Variant(registers=True, table=False)
DINOV3 = {
    f'{"SwiGLU, " if gated else ""}{note}': _DINOV3._replace(bias=bias, gated=gated)
    for gated in (False, True)
    for bias, note in (
        ('', 'no bias of q, k, v'),
        ('qv', 'bias of q and v'),
        ('qkv', 'bias of q, k and v'),
    )
}
IJEPA = Variant(cls_token=False, scale=False)


def vit_rows(spelling: Spelling, variant: Variant) -> list[Row]:
    """Rows of a backbone.

    C embedding, T positions, R registers, I input channels, P and Q sides of a patch, H hidden.
    """
    cls_token, registers, table = spelling.stem
    rows = weights_and_biases(spelling.patch, 'backbone.patch_embed.projection', 'C I P Q', 'C')
    if variant.cls_token:
        rows.append(Row(cls_token, 'backbone.cls_token', '1 1 C'))
    if variant.registers:
        rows.append(Row(registers, 'backbone.register_tokens', '1 R C'))
    if variant.table:
        rows.append(Row(table, 'backbone.pos_embed', '1 T C'))
    rows += [
        row._replace(official=f'{spelling.block}.{row.official}', ours=f'backbone.layers.{{i}}.{row.ours}')
        for row in _block_rows(spelling, variant)
    ]
    return rows + weights_and_biases(spelling.norm, 'backbone.ln1', 'C', 'C')


def _block_rows(spelling: Spelling, variant: Variant) -> list[Row]:
    qkv, proj = spelling.attention
    rows = [Row(f'{qkv}.weight', 'attn.qkv.weight', '3C C')]
    if variant.bias == 'qkv':
        rows.append(Row(f'{qkv}.bias', 'attn.qkv.bias', '3C'))
    elif variant.bias == 'qv':
        parent = qkv.rpartition('.')[0]
        rows += [Row(f'{parent}.{name}', f'attn.{name}', 'C') for name in ('q_bias', 'v_bias')]
    rows += weights_and_biases(proj, 'attn.proj', 'C C', 'C')
    for name, ours in zip(spelling.norms, ('ln1', 'ln2'), strict=True):
        rows += weights_and_biases(name, ours, 'C', 'C')
    if variant.scale:
        names = ('attn.gamma1.weight', 'ffn.gamma2.weight')
        rows += [Row(name, ours, 'C') for name, ours in zip(spelling.scales, names, strict=True)]
    if variant.gated:
        first, last = spelling.gated
        return [
            *rows,
            *weights_and_biases(first, 'ffn.w12', '2H C', '2H'),
            *weights_and_biases(last, 'ffn.w3', 'C H', 'C'),
        ]
    first, last = spelling.mlp
    return [
        *rows,
        *weights_and_biases(first, 'ffn.layers.0.0', 'H C', 'H'),
        *weights_and_biases(last, 'ffn.layers.1', 'C H', 'C'),
    ]
