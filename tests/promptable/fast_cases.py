"""Fast forms of the promptable segmenter against their plain forms."""

from functools import partial
from types import SimpleNamespace

import torch
from fast_case import Case

from mmssl.promptable import SAM, SAMMaskDecoder

WIDTH = 32


def decoder(dtype, depth=2):
    sizes = dict(depth=depth, num_heads=4, mlp_dim=48)
    module = SAMMaskDecoder(transformer_dim=WIDTH, transformer=sizes, iou_head_hidden_dim=24).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            spread = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.2
            parameter.copy_(torch.randn_like(parameter) * spread + (parameter.ndim == 1) * 0.5)
    return module.to(dtype)


def decoding(
    dtype,
    prompts=7,
    tokens=3,
    grid=(5, 6),
    images=1,
    masks=False,
    index=None,
    lengths=None,
    mask_slice=slice(1, None),
    depth=2,
    transposed=False,
    expanded=False,
):
    """Arguments of ``SAMMaskDecoder.predict_masks``."""

    def maps(count):
        return torch.randn(count, WIDTH, *grid, dtype=dtype, requires_grad=True)

    embeddings = maps(images)
    if transposed:
        embeddings = torch.randn(images, WIDTH, *grid[::-1], dtype=dtype).mT.requires_grad_()
    dense = maps(prompts if masks else 1)
    if expanded:
        dense = torch.randn(1, WIDTH, 1, 1, dtype=dtype).expand(prompts, -1, *grid)
    valid = None if lengths is None else torch.arange(tokens) < torch.tensor(lengths)[:, None]
    return (
        decoder(dtype, depth),
        embeddings,
        maps(1),
        torch.randn(prompts, tokens, WIDTH, dtype=dtype, requires_grad=True),
        dense,
        mask_slice,
        None if index is None else torch.tensor(index),
        valid,
    )


DECODINGS = {
    'prompts without masks': dict(),
    'a prompt': dict(prompts=1, mask_slice=slice(0, 1)),
    'an expanded dense embedding': dict(prompts=6, expanded=True),
    'no sparse tokens': dict(tokens=0, prompts=5),
    'many tokens': dict(tokens=30, prompts=5),
    'many tokens and masks': dict(tokens=30, prompts=5, masks=True),
    'masks': dict(masks=True, prompts=5),
    'a mask': dict(masks=True, prompts=1),
    'an image of a pixel': dict(grid=(1, 1)),
    'a tall image': dict(grid=(700, 1), prompts=2),
    'three layers': dict(depth=3, prompts=5),
    'one layer': dict(depth=1, prompts=3),
    'not contiguous': dict(transposed=True),
    'all masks': dict(mask_slice=slice(None)),
    'an image for each prompt': dict(images=7),
    'an image and a mask for each prompt': dict(images=7, masks=True),
    'images in any order': dict(images=3, index=[0, 0, 0, 1, 1, 0, 2]),
    'images in any order, masks': dict(images=3, index=[2, 0, 0, 1, 1, 0, 2], masks=True),
    'one of the images': dict(images=3, index=[1] * 7),
    'images in any order, many tokens': dict(images=3, index=[0, 0, 0, 1, 1, 0, 2], tokens=30),
    'padding': dict(lengths=[3, 0, 1, 2, 3, 3, 1]),
    'padding and masks': dict(lengths=[3, 0, 1, 2, 3, 3, 1], masks=True),
    'padding, images and masks': dict(
        lengths=[1, 0, 1, 1, 3, 2, 1], masks=True, images=3, index=[0, 0, 0, 1, 1, 0, 2]
    ),
    'padding and images': dict(lengths=[3, 0, 1, 2, 3, 3, 1], images=3, index=[0, 0, 0, 1, 1, 0, 2]),
}


def with_exchanged_layer(dtype):
    arguments = decoding(dtype)
    attention = arguments[0].transformer.layers[0].cross_attn_token_to_image
    attention.k_proj = torch.nn.Sequential(attention.k_proj)
    return arguments


def decoder_cases(gradients):
    cases = [
        Case(name, partial(decoding, **settings), gradients=gradients, tolerance=2e-4)
        for name, settings in DECODINGS.items()
    ]
    cases.append(Case('an exchanged layer', with_exchanged_layer, gradients=gradients, declined=True))
    return cases


def confidence(dtype, min_iou=None, prompts=11, tokens=3):
    module, embeddings, pe, sparse, dense, *_ = decoding(dtype, prompts=prompts, tokens=tokens)
    return module, embeddings, pe, sparse, dense, min_iou


CONFIDENT = [
    Case(name, partial(confidence, **settings), gradients=False, tolerance=2e-4)
    for name, settings in {
        'all masks': dict(),
        'some masks': dict(min_iou=0.0),
        'no mask': dict(min_iou=1e9),
        'a prompt': dict(prompts=1),
        'many tokens': dict(tokens=30, min_iou=0.0),
    }.items()
]


def sam(img_size, low_res_size, mask_threshold):
    model = SimpleNamespace(
        mask_threshold=mask_threshold,
        image_encoder=SimpleNamespace(img_size=img_size),
        prompt_encoder=SimpleNamespace(mask_input_size=(low_res_size, low_res_size)),
    )
    model.postprocess_masks = partial(SAM.postprocess_masks, model)
    return model


def is_wide(box):
    return box[2] - box[0] > 3


def full_size(
    dtype,
    input_size=(96, 70),
    original_size=(70, 51),
    img_size=96,
    low_res_size=24,
    crop=(None, 0, 0),
    offset=0.2,
    min_stability=None,
    accepts=None,
    threshold=0.0,
):
    """Arguments of ``full_size_masks``."""
    from mmssl.promptable.full_size_masks import CropSizes

    coarse = torch.randn(9, 1, 6, 6, dtype=torch.float64)
    logits = torch.nn.functional.interpolate(coarse, low_res_size, mode='bicubic')[:, 0]
    logits[4] = -9.0
    logits[4, 5:9, 3:8] = 4.0
    height = original_size[0] if crop[0] is None else crop[0]
    sizes = CropSizes(input_size, original_size, height, *crop[1:])
    return logits.to(dtype), sam(img_size, low_res_size, threshold), sizes, offset, min_stability, accepts


FULL_SIZE = [
    Case(name, partial(full_size, **settings), gradients=False)
    for name, settings in {
        'smaller than encoded': dict(),
        'a crop': dict(crop=(100, 3, 20)),
        'stable masks': dict(min_stability=0.5),
        'some boxes': dict(accepts=is_wide),
        'larger than encoded': dict(original_size=(190, 137), threshold=0.7),
        'much larger than encoded': dict(input_size=(64, 96), original_size=(701, 1050), threshold=0.5),
        'as encoded': dict(original_size=(96, 70)),
        'not a power of two': dict(img_size=96, low_res_size=32),
        'no mask': dict(min_stability=2.0),
        'negative offset': dict(offset=-0.2),
    }.items()
]

CASES = {
    'mmssl.promptable.fast.cpu_decoder:predict_masks': decoder_cases(gradients=False),
    'mmssl.promptable.fast.batched_decoder:predict_masks': decoder_cases(gradients=True),
    'mmssl.promptable.fast.confident_masks:confident_masks': CONFIDENT,
    'mmssl.promptable.fast.full_size_masks:full_size_masks': FULL_SIZE,
}
