"""Time and memory of Segment Anything's parts against the package ``segment_anything``, same weights, same input.

    python tools/benchmarks/promptable.py                     # ViT-B at 1024
    python tools/benchmarks/promptable.py --parts decoder     # some of: encoder, decoder, ragged, automatic
    python tools/benchmarks/promptable.py --depth 3 --rounds 1  # a quick look: an encoder of three blocks,
    one of them global python tools/benchmarks/promptable.py --parts automatic --quick  # small sizes, seconds
    instead of minutes

Weights are random, positions and relative positions too; results are compared before they are timed,
embeddings and logits to 1e-4, predicted IoU to 1e-5. Rounds are interleaved, the table gives medians; memory
is that of a process of its own, beyond what the imports need. "ragged" is one decoder call for the prompts of
eight images, with one to four points each, against a call for every group of prompts that has one number of
points, by the package and by our own decoder. On a GPU there are rows for bfloat16, ours compiled too.

"automatic" is everything from a photograph (scikit-image's astronaut) to records, encoder included, with a
grid of points. Thresholds are taken from the package's masks, so that random weights give the filters
something to do: a third of the masks is predicted to be good, half of these are stable, and the mask
threshold leaves a twentieth of the logits above it. Both sides must give as many records in the same order
with the same boxes; pixels that differ, by the rounding of the decoder, are counted.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]
from timing import medians, peak_resident, report  # noqa: E402

GLOBAL = {
    'vit_b': (768, 12, 12, (2, 5, 8, 11)),
    'vit_l': (1024, 24, 16, (5, 11, 17, 23)),
    'vit_h': (1280, 32, 16, (7, 15, 23, 31)),
}


def official(args) -> torch.nn.Module:
    """The package's model with random weights."""
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    torch.manual_seed(0)
    dim, depth, heads, whole = GLOBAL[args.model]
    depth = args.depth or depth
    grid = args.size // 16
    model = Sam(
        ImageEncoderViT(
            depth=depth,
            embed_dim=dim,
            img_size=args.size,
            num_heads=heads,
            use_rel_pos=True,
            window_size=14,
            global_attn_indexes=tuple(index for index in whole if index < depth),
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        ),
        PromptEncoder(
            embed_dim=256,
            image_embedding_size=(grid, grid),
            input_image_size=(args.size, args.size),
            mask_in_chans=16,
        ),
        MaskDecoder(
            transformer_dim=256,
            transformer=TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8),
        ),
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if 'rel_pos' in name or name.endswith('pos_embed'):
                parameter.normal_(std=0.1)
    return model.eval()


def ours(args, theirs: torch.nn.Module | None = None) -> torch.nn.Module:
    """Our model with the same weights."""
    from mmssl.promptable import build_sam

    dim, depth, heads, whole = GLOBAL[args.model]
    depth = args.depth or depth
    model = build_sam(
        {
            'image_encoder': dict(
                img_size=args.size,
                embed_dim=dim,
                depth=depth,
                num_heads=heads,
                global_attn_indexes=tuple(index for index in whole if index < depth),
            )
        }
    )
    model.load_state_dict((theirs or official(args)).state_dict(), strict=True)
    return model


def agree(mine: torch.Tensor, their: torch.Tensor, tolerance: float, what: str) -> None:
    """End the run where results differ."""
    error = (mine.float() - their.float()).abs().max().item()
    if not error <= tolerance:
        raise SystemExit(f'{what} differ by {error:.1e}, more than {tolerance:.0e}')


def finished(call, stock: bool = False):
    """The call, waiting for the device; ``stock`` leaves torch's matrix products as they are, for the peer."""
    from mmssl.ops.fast.linear import enabled

    def run():
        with contextlib.nullcontext() if stock else enabled():
            out = call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return out

    return run


def encoder(args, device) -> list[str]:
    """Rows of the image encoder."""
    theirs = official(args)
    mine = ours(args, theirs)
    theirs, mine = theirs.image_encoder.to(device), mine.image_encoder.to(device)
    images = torch.randn(args.images, 3, args.size, args.size, generator=torch.Generator().manual_seed(1)).to(
        device
    )
    agree(mine(images), theirs(images), 1e-4, 'embeddings')
    sides = {
        'segment_anything': finished(lambda: theirs(images), stock=True),
        'mmssl': finished(lambda: mine(images)),
    }
    if device.type == 'cuda':
        import copy

        half, small = copy.deepcopy(mine).bfloat16(), images.bfloat16()
        compiled = torch.compile(half)
        their_half = copy.deepcopy(theirs).bfloat16()
        sides['segment_anything, bfloat16'] = finished(lambda: their_half(small), stock=True)
        sides['mmssl, bfloat16'] = finished(lambda: half(small))
        sides['mmssl, bfloat16, compiled'] = finished(lambda: compiled(small))
    seconds = medians(sides, args.rounds)
    lines = [
        f'## Image encoder, {args.images} image{"s" * (args.images > 1)} of {args.size} x {args.size}',
        '',
        '| | seconds | of segment_anything |',
        '|---|---|---|',
    ]
    lines += [
        f'| {name} | {value:.3f} | {value / seconds["segment_anything"]:.3f} |'
        for name, value in seconds.items()
    ]
    memory = {name: peak_memory(name, args) for name in ('segment_anything', 'mmssl')}
    lines += ['', '| | peak memory MiB | of segment_anything |', '|---|---|---|']
    lines += [
        f'| {name} | {value:.0f} | {value / memory["segment_anything"]:.3f} |'
        for name, value in memory.items()
    ]
    return [*lines, '']


def prompts(count: int, args, device, points: int = 1) -> tuple:
    """Points and labels."""
    generator = torch.Generator().manual_seed(count)
    return (torch.rand(count, points, 2, generator=generator) * args.size).to(device), torch.ones(
        count, points, device=device
    )


def decode(model, maps, points):
    """Logits and IoU of prompts on one image, prompts encoded too."""
    sparse, dense = model.prompt_encoder(points=points, boxes=None, masks=None)
    return model.mask_decoder(
        image_embeddings=maps,
        image_pe=model.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=True,
    )


def decoder(args, device) -> list[str]:
    """Rows of prompt encoder and mask decoder."""
    args = argparse.Namespace(**{**vars(args), 'depth': 1})
    theirs = official(args)
    mine, theirs = ours(args, theirs).to(device), theirs.to(device)
    maps = torch.randn(
        1, 256, args.size // 16, args.size // 16, generator=torch.Generator().manual_seed(1)
    ).to(device)
    lines = [
        '## Prompts to masks',
        '',
        '| prompts | segment_anything, prompts a second | mmssl | times |',
        '|---|---|---|---|',
    ]
    for count in args.prompts:
        points = prompts(count, args, device)
        for index, tolerance, what in ((0, 1e-4, 'logits'), (1, 1e-5, 'predicted IoU')):
            agree(decode(mine, maps, points)[index], decode(theirs, maps, points)[index], tolerance, what)
        seconds = medians(
            {
                'theirs': finished(lambda p=points: decode(theirs, maps, p), stock=True),
                'mine': finished(lambda p=points: decode(mine, maps, p)),
            },
            args.rounds,
        )
        lines.append(
            f'| {count} | {count / seconds["theirs"]:.2f} | {count / seconds["mine"]:.2f} | '
            f'{seconds["theirs"] / seconds["mine"]:.2f} |'
        )
    return [*lines, '']


def ragged(args, device) -> list[str]:
    """Rows of eight images with other prompts each."""
    args = argparse.Namespace(**{**vars(args), 'depth': 1})
    theirs = official(args)
    mine, theirs = ours(args, theirs).to(device), theirs.to(device)
    maps = torch.randn(
        8, 256, args.size // 16, args.size // 16, generator=torch.Generator().manual_seed(1)
    ).to(device)
    # image 0 has one prompt, of one point; image 7 has four, of one to four points
    asked = [[prompts(1, args, device, 1 + number) for number in range(1 + image // 2)] for image in range(8)]
    records = [
        {'point_coords': [coords[0] for coords, _ in one], 'point_labels': [labels[0] for _, labels in one]}
        for one in asked
    ]

    def loop(model):
        return [
            torch.cat([decode(model, maps[image : image + 1], points)[0] for points in one])
            for image, one in enumerate(asked)
        ]

    def together():
        return [logits for logits, _ in mine.decode(maps, records, True)]

    for one, other in zip(together(), loop(mine), strict=True):
        agree(one, other, 1e-5, 'logits of one call and of the loop')
    seconds = medians(
        {
            'theirs': finished(lambda: loop(theirs), stock=True),
            'loop': finished(lambda: loop(mine)),
            'together': finished(together),
        },
        args.rounds,
    )
    return [
        f'## Eight images, {sum(map(len, asked))} prompts of one to four points',
        '',
        '| | seconds | times faster in one call |',
        '|---|---|---|',
        f'| segment_anything, a call a prompt | {seconds["theirs"]:.3f} | {seconds["theirs"] / seconds["together"]:.2f} |',
        f'| mmssl, a call a prompt | {seconds["loop"]:.3f} | {seconds["loop"] / seconds["together"]:.2f} |',
        f'| mmssl, one call | {seconds["together"]:.3f} | |',
        '',
    ]


def photograph(args):
    """(H, W, 3) uint8."""
    import numpy as np
    from PIL import Image
    from skimage.data import astronaut

    return np.asarray(Image.fromarray(astronaut()).resize((args.photo[1], args.photo[0])))


def for_automatic_masks(args) -> torch.nn.Module:
    """The package's model; what it predicts for points is spread out."""
    theirs = official(args)
    for name, parameter in theirs.named_parameters():
        if 'iou_prediction_head' in name or '_attn' in name or 'cross_attn' in name:
            parameter.data.mul_(2)
    theirs.mask_decoder.iou_prediction_head.layers[-1].bias.data.fill_(4)
    return theirs


def thresholds(args, theirs) -> dict:
    """Arguments of the generators, and 'mask_threshold' of the models."""
    from segment_anything import SamPredictor

    predictor, image = SamPredictor(theirs), photograph(args)
    predictor.set_image(image)
    points = torch.rand(36, 1, 2, generator=torch.Generator().manual_seed(0)) * min(predictor.input_size)
    points = points.to(predictor.device)
    logits = predictor.predict_torch(points, torch.ones_like(points[..., 0]))[2]
    offset = 0.1 * logits.std().item()
    asked = dict(
        mask_threshold=logits.flatten()[::97].quantile(0.9).item(),
        stability_score_offset=offset,
        output_mode='coco_rle',
        box_nms_thresh=1.0,
    )
    everything = dict(asked, points_per_side=6, pred_iou_thresh=-1.0, stability_score_thresh=-1.0)
    every = generator('segment_anything', theirs, everything).generate(image)
    ious, stability = (
        torch.tensor([record[key] for record in every]) for key in ('predicted_iou', 'stability_score')
    )
    least = ious.quantile(2 / 3).item()
    return dict(
        asked,
        points_per_side=args.points,
        pred_iou_thresh=least,
        stability_score_thresh=stability[ious > least].nanquantile(0.5).item(),
    )


def generator(side: str, model, settings: dict):
    """The automatic mask generator of one side."""
    settings = dict(settings)
    model.mask_threshold = settings.pop('mask_threshold')
    if side == 'segment_anything':
        from segment_anything import SamAutomaticMaskGenerator
    else:
        from mmssl.promptable import SamAutomaticMaskGenerator
    return SamAutomaticMaskGenerator(model, **settings)


def automatic(args, device) -> list[str]:
    """Rows of automatic masks."""
    theirs = for_automatic_masks(args).to(device)
    mine, settings, image = ours(args, theirs).to(device), thresholds(args, theirs), photograph(args)
    sides = {
        'segment_anything': generator('segment_anything', theirs, settings),
        'mmssl': generator('mmssl', mine, settings),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    results = {}
    for number in range(args.automatic_rounds):
        for name in list(sides)[:: 1 if number % 2 else -1]:
            start = time.perf_counter()
            results[name] = finished(
                lambda side=sides[name]: side.generate(image), name == 'segment_anything'
            )()
            seconds[name].append(time.perf_counter() - start)
    times = {name: statistics.median(values) for name, values in seconds.items()}
    pixels, masks = compare(results['mmssl'], results['segment_anything'])
    said = ', '.join(f'{name} {value:.4g}' for name, value in settings.items() if isinstance(value, float))
    lines = [
        f'## Automatic masks, {args.points}x{args.points} points, photograph of {args.photo[0]} x {args.photo[1]}',
        '',
        f'{said}. {len(results["mmssl"])} records on both sides, in the same order with the same boxes; {masks} of them differ, by '
        f'{pixels} pixels in all.',
        '',
        '| | seconds | of segment_anything |',
        '|---|---|---|',
    ]
    lines += [
        f'| {name} | {value:.2f} | {value / times["segment_anything"]:.3f} |' for name, value in times.items()
    ]
    few = {**settings, 'points_per_side': min(8, args.points)}
    lines += [
        '',
        f'| peak memory MiB | {few["points_per_side"]}x{few["points_per_side"]} points | {args.points}x{args.points} points |',
        '|---|---|---|',
    ]
    with tempfile.TemporaryDirectory() as folder:
        torch.save(theirs.state_dict(), f'{folder}/sam.pth')
        for name in sides:
            memory = [peak_memory(name, args, f'{folder}/sam.pth', asked) for asked in (few, settings)]
            lines.append(f'| {name} | {memory[0]:.0f} | {memory[1]:.0f} |')
    return [*lines, '']


def compare(mine: list[dict], theirs: list[dict]) -> tuple[int, int]:
    """How many pixels and masks differ; end the run where records do not correspond."""
    from pycocotools import mask as coco

    if len(mine) != len(theirs):
        raise SystemExit(f'{len(mine)} automatic masks, the package has {len(theirs)}')
    pixels = masks = 0
    for one, other in zip(mine, theirs, strict=True):
        for key in ('bbox', 'point_coords', 'crop_box'):
            if one[key] != other[key]:
                raise SystemExit(f'automatic masks differ in {key}: {one[key]} and {other[key]}')
        if one['segmentation'] != other['segmentation']:
            masks += 1
            pixels += int((coco.decode(one['segmentation']) != coco.decode(other['segmentation'])).sum())
    return pixels, masks


def peak_memory(side: str, args, weights: str = '', settings: dict | None = None) -> float:
    """MiB that encoding needs, or automatic masks where there are settings, weights included, in a process of its own."""
    command = [
        sys.executable,
        __file__,
        '--child',
        side,
        '--model',
        args.model,
        '--size',
        str(args.size),
        '--images',
        str(args.images),
        '--threads',
        str(args.threads),
        '--depth',
        str(args.depth),
        '--photo',
        *map(str, args.photo),
        '--weights',
        weights,
        '--settings',
        json.dumps(settings or {}),
    ]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


@torch.no_grad()
def child(side: str, args) -> None:
    """Measure the memory of one side and print it."""
    import segment_anything  # noqa: F401

    import mmssl.promptable  # noqa: F401

    torch.set_num_threads(args.threads)
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    torch.randn(64, 64) @ torch.randn(64, 64)
    settings, image = json.loads(args.settings), photograph(args) if args.weights else None
    before = peak_resident()
    model = (official(args) if side == 'segment_anything' else fresh(args)).to(device)
    if settings:
        model.load_state_dict(torch.load(args.weights, map_location=device))
        masks = generator(side, model, settings)
        call = partial(masks.generate, image)
    else:
        call = partial(model.image_encoder, torch.randn(args.images, 3, args.size, args.size, device=device))
    finished(call, stock=side == 'segment_anything')()
    print(torch.cuda.max_memory_allocated() / 2**20 if device.type == 'cuda' else peak_resident() - before)


def fresh(args) -> torch.nn.Module:
    """Our model without the package's beside it."""
    from mmssl.promptable import build_sam

    dim, depth, heads, whole = GLOBAL[args.model]
    depth = args.depth or depth
    return build_sam(
        {
            'image_encoder': dict(
                img_size=args.size,
                embed_dim=dim,
                depth=depth,
                num_heads=heads,
                global_attn_indexes=tuple(index for index in whole if index < depth),
            )
        }
    )


PARTS = {'encoder': encoder, 'decoder': decoder, 'ragged': ragged, 'automatic': automatic}


def main() -> None:
    """Run the comparisons, print the tables and write them."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--parts', nargs='+', default=list(PARTS), choices=list(PARTS))
    parser.add_argument('--model', default='vit_b', choices=list(GLOBAL))
    parser.add_argument('--size', type=int, default=1024)
    parser.add_argument('--images', type=int, default=1)
    parser.add_argument(
        '--depth', type=int, default=0, help='blocks of the encoder; 0 for those of the model'
    )
    parser.add_argument('--prompts', type=int, nargs='+', default=[16, 64])
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--points', type=int, default=32, help='along a side of the grid of automatic masks')
    parser.add_argument(
        '--photo', type=int, nargs=2, default=[512, 512], help='height and width of the photograph'
    )
    parser.add_argument('--automatic-rounds', type=int, default=1)
    parser.add_argument(
        '--quick', action='store_true', help='an encoder of three blocks for images of 256, 8x8 points'
    )
    parser.add_argument('--threads', type=int, default=os.cpu_count())
    parser.add_argument('--out', default=str(ROOT / 'docs/benchmarks/promptable.md'))
    for hidden in ('--child', '--weights', '--settings'):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.quick:
        args.size, args.depth, args.points, args.rounds = 256, 3, min(args.points, 8), 1
    if args.child:
        child(args.child, args)
        return
    torch.set_num_threads(args.threads)
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    with torch.no_grad():
        lines = [line for part in args.parts for line in PARTS[part](args, device)]
    report(
        args.out,
        'Segment Anything, part by part',
        lines,
        f'{args.threads} threads, {args.rounds} rounds',
        'segment_anything',
    )


if __name__ == '__main__':
    main()
