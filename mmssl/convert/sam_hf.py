"""Segment Anything of Hugging Face transformers (``SamModel``), to the names of the official release.

transformers has the frequencies of the position encoding twice, for points and for the image; its safetensors
files have them once.
"""

from collections.abc import Mapping

from mmssl.convert.keymap import Family, Row, weights_and_biases

_FREQUENCIES = 'shared_image_embedding.positional_embedding'
_FREQUENCIES_COPY = 'prompt_encoder.shared_embedding.positional_embedding'

# C width of the encoder, D width of prompts and decoder, J half of it, I input channels, P and Q sides of a
# patch, H and W grid, E width of a head, F, G and U hidden widths, K channels for masks, T mask tokens, N and
# O widths in the upscaling, A width inside cross-attention
_ENCODER = [
    *weights_and_biases(
        'vision_encoder.patch_embed.projection', 'image_encoder.patch_embed.proj', 'C I P Q', 'C'
    ),
    Row('vision_encoder.pos_embed', 'image_encoder.pos_embed', '1 H W C'),
    *(
        row
        for theirs, ours, weight, bias in (
            ('layer_norm1', 'norm1', 'C', 'C'),
            ('attn.qkv', 'attn.qkv', '3C C', '3C'),
            ('attn.proj', 'attn.proj', 'C C', 'C'),
            ('layer_norm2', 'norm2', 'C', 'C'),
            ('mlp.lin1', 'mlp.lin1', 'F C', 'F'),
            ('mlp.lin2', 'mlp.lin2', 'C F', 'C'),
        )
        for row in weights_and_biases(
            f'vision_encoder.layers.{{i}}.{theirs}', f'image_encoder.blocks.{{i}}.{ours}', weight, bias
        )
    ),
    Row('vision_encoder.neck.conv1.weight', 'image_encoder.neck.0.weight', 'D C 1 1'),
    *weights_and_biases('vision_encoder.neck.layer_norm1', 'image_encoder.neck.1', 'D', 'D'),
    Row('vision_encoder.neck.conv2.weight', 'image_encoder.neck.2.weight', 'D D 3 3'),
    *weights_and_biases('vision_encoder.neck.layer_norm2', 'image_encoder.neck.3', 'D', 'D'),
]
_PROMPTS = [
    Row(_FREQUENCIES, 'prompt_encoder.pe_layer.positional_encoding_gaussian_matrix', '2 J'),
    Row('prompt_encoder.point_embed.{i}.weight', 'prompt_encoder.point_embeddings.{i}.weight', '1 D'),
    Row('prompt_encoder.not_a_point_embed.weight', 'prompt_encoder.not_a_point_embed.weight', '1 D'),
    Row('prompt_encoder.no_mask_embed.weight', 'prompt_encoder.no_mask_embed.weight', '1 D'),
    *(
        row
        for theirs, ours, weight, bias in (
            ('conv1', '0', 'K 1 2 2', 'K'),
            ('layer_norm1', '1', 'K', 'K'),
            ('conv2', '3', '4K K 2 2', '4K'),
            ('layer_norm2', '4', '4K', '4K'),
            ('conv3', '6', 'D 4K 1 1', 'D'),
        )
        for row in weights_and_biases(
            f'prompt_encoder.mask_embed.{theirs}', f'prompt_encoder.mask_downscaling.{ours}', weight, bias
        )
    ),
]


def _attention(theirs: str, ours: str, inside: str) -> list[Row]:
    rows = [
        row
        for name in 'qkv'
        for row in weights_and_biases(f'{theirs}.{name}_proj', f'{ours}.{name}_proj', f'{inside} D', inside)
    ]
    return rows + weights_and_biases(f'{theirs}.out_proj', f'{ours}.out_proj', f'D {inside}', 'D')


_LAYER = 'mask_decoder.transformer.layers.{i}'
_DECODER = [
    Row('mask_decoder.iou_token.weight', 'mask_decoder.iou_token.weight', '1 D'),
    Row('mask_decoder.mask_tokens.weight', 'mask_decoder.mask_tokens.weight', 'T D'),
    *_attention(f'{_LAYER}.self_attn', f'{_LAYER}.self_attn', 'D'),
    *(
        row
        for index in range(1, 5)
        for row in weights_and_biases(f'{_LAYER}.layer_norm{index}', f'{_LAYER}.norm{index}', 'D', 'D')
    ),
    *_attention(f'{_LAYER}.cross_attn_token_to_image', f'{_LAYER}.cross_attn_token_to_image', 'A'),
    *weights_and_biases(f'{_LAYER}.mlp.lin1', f'{_LAYER}.mlp.lin1', 'G D', 'G'),
    *weights_and_biases(f'{_LAYER}.mlp.lin2', f'{_LAYER}.mlp.lin2', 'D G', 'D'),
    *_attention(f'{_LAYER}.cross_attn_image_to_token', f'{_LAYER}.cross_attn_image_to_token', 'A'),
    *_attention(
        'mask_decoder.transformer.final_attn_token_to_image',
        'mask_decoder.transformer.final_attn_token_to_image',
        'A',
    ),
    *weights_and_biases(
        'mask_decoder.transformer.layer_norm_final_attn', 'mask_decoder.transformer.norm_final_attn', 'D', 'D'
    ),
    *weights_and_biases('mask_decoder.upscale_conv1', 'mask_decoder.output_upscaling.0', 'D N 2 2', 'N'),
    *weights_and_biases('mask_decoder.upscale_layer_norm', 'mask_decoder.output_upscaling.1', 'N', 'N'),
    *weights_and_biases('mask_decoder.upscale_conv2', 'mask_decoder.output_upscaling.3', 'N O 2 2', 'O'),
    *(
        row
        for theirs, ours, weight, bias in (
            ('proj_in', '0', 'D D', 'D'),
            ('layers.0', '1', 'D D', 'D'),
            ('proj_out', '2', 'O D', 'O'),
        )
        for row in weights_and_biases(
            f'mask_decoder.output_hypernetworks_mlps.{{i}}.{theirs}',
            f'mask_decoder.output_hypernetworks_mlps.{{i}}.layers.{ours}',
            weight,
            bias,
        )
    ),
    *(
        row
        for theirs, ours, weight, bias in (
            ('proj_in', '0', 'U D', 'U'),
            ('layers.0', '1', 'U U', 'U'),
            ('proj_out', '2', 'T U', 'T'),
        )
        for row in weights_and_biases(
            f'mask_decoder.iou_prediction_head.{theirs}',
            f'mask_decoder.iou_prediction_head.layers.{ours}',
            weight,
            bias,
        )
    ),
]
# as many offsets as fit a window, or the whole map
_RELATIVE = [
    Row(
        f'vision_encoder.layers.{{i}}.attn.rel_pos_{axis}',
        f'image_encoder.blocks.{{i}}.attn.rel_pos_{axis}',
        '? E',
    )
    for axis in 'hw'
]


def _adapt(weights: Mapping, to_official: bool) -> Mapping:
    """Remove or add the copy of the frequencies. See ``Family.adapt``."""
    if to_official:
        if _FREQUENCIES not in weights:
            return weights
        return {**weights, _FREQUENCIES_COPY: weights[_FREQUENCIES]}
    adapted = {key: value for key, value in weights.items() if key != _FREQUENCIES_COPY}
    if _FREQUENCIES not in adapted and _FREQUENCIES_COPY in weights:
        adapted[_FREQUENCIES] = weights[_FREQUENCIES_COPY]
    return adapted


FAMILY = Family(name='sam-hf', layouts={'sam': [*_ENCODER, *_RELATIVE, *_PROMPTS, *_DECODER]}, adapt=_adapt)
