"""Time and memory of Segment Anything's parts against the package ``segment_anything`` with the same weights.

    python tools/benchmarks/promptable.py                     # ViT-B at 1024
    python tools/benchmarks/promptable.py --parts decoder     # some of: encoder, decoder, ragged, automatic
    python tools/benchmarks/promptable.py --depth 3 --rounds 1            # an encoder of three blocks
    python tools/benchmarks/promptable.py --parts automatic --quick       # small sizes

Weights are random, those of positions too. Results are compared before they are timed: embeddings and logits
to 1e-4, predicted IoU to 1e-5. Memory is that of a separate process, beyond what the imports need. "ragged"
is one decoder call for the prompts of eight images, with one to four points each, against a call per group of
prompts with the same number of points, by the package and by our own decoder. On a GPU there are rows for
bfloat16, ours compiled too.

"automatic" is everything from a photograph (scikit-image's astronaut) to records, encoder included, with a
grid of points. Thresholds are taken from the package's masks, so that random weights give the filters
something to do: a third of the masks is predicted to be good, half of these are stable, and the mask
threshold leaves a twentieth of the logits above it. Both must give as many records in the same order with the
same boxes; pixels that differ, by the rounding of the decoder, are counted.
"""

import argparse
import contextlib
import copy
import json
import statistics
import sys
import tempfile
from functools import partial

import torch
from timing import (
    ROOT,
    Results,
    counted,
    interleaved,
    measured_in_child,
    medians,
    parser_of,
    peak_resident,
    report,
    seconds_of,
    table,
    use_threads,
)

sys.path.insert(0, str(ROOT))
PEER = 'segment_anything'
FASTER = f'times faster than {PEER}'
# embedding dimension, depth, heads, blocks with global attention
ENCODERS = {
    'vit_b': (768, 12, 12, (2, 5, 8, 11)),
    'vit_l': (1024, 24, 16, (5, 11, 17, 23)),
    'vit_h': (1280, 32, 16, (7, 15, 23, 31)),
}


def encoder_settings(args: argparse.Namespace) -> dict:
    """Return the arguments of the image encoder that both packages share."""
    dim, depth, heads, global_blocks = ENCODERS[args.model]
    depth = args.depth or depth
    return dict(
        img_size=args.size,
        embed_dim=dim,
        depth=depth,
        num_heads=heads,
        global_attn_indexes=tuple(index for index in global_blocks if index < depth),
    )


def build_peer(args: argparse.Namespace) -> torch.nn.Module:
    """Build the package's model with random weights."""
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    torch.manual_seed(0)
    grid = args.size // 16
    norm = partial(torch.nn.LayerNorm, eps=1e-6)
    model = Sam(
        ImageEncoderViT(**encoder_settings(args), use_rel_pos=True, window_size=14, norm_layer=norm),
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


def build_ours(args: argparse.Namespace, peer: torch.nn.Module | None = None) -> torch.nn.Module:
    """Build our model, with the weights of the package's if that is given."""
    from mmssl.promptable import build_sam

    model = build_sam({'image_encoder': encoder_settings(args)})
    if peer is not None:
        model.load_state_dict(peer.state_dict(), strict=True)
    return model


def build_both(args: argparse.Namespace, device) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Build our model and the package's with the same weights."""
    peer = build_peer(args)
    return build_ours(args, peer).to(device), peer.to(device)


def check_equal(ours: torch.Tensor, peers: torch.Tensor, tolerance: float, name: str) -> None:
    """End the benchmark if results differ by more than ``tolerance``."""
    error = (ours.float() - peers.float()).abs().max().item()
    if not error <= tolerance:
        raise SystemExit(f'{name} differ by {error:.1e}, more than {tolerance:.0e}')


def synchronized(call, is_peer: bool = False):
    """Wrap a call so that it waits for the device; the peer runs on plain torch, without our products."""
    from mmssl.ops.fast.linear import enabled

    def run():
        with contextlib.nullcontext() if is_peer else enabled():
            out = call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return out

    return run


def random_maps(count: int, args: argparse.Namespace, device) -> torch.Tensor:
    """Draw the embeddings of ``count`` images."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 256, args.size // 16, args.size // 16, generator=generator).to(device)


def random_points(count: int, args: argparse.Namespace, device, points: int = 1) -> tuple:
    """Draw coordinates (N, P, 2) and labels (N, P) of prompts."""
    generator = torch.Generator().manual_seed(count)
    coords = torch.rand(count, points, 2, generator=generator) * args.size
    return coords.to(device), torch.ones(count, points, device=device)


def decode(model, maps, points):
    """Return logits and predicted IoU of prompts on one image, including the prompt encoder."""
    sparse, dense = model.prompt_encoder(points=points, boxes=None, masks=None)
    return model.mask_decoder(
        image_embeddings=maps,
        image_pe=model.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=True,
    )


def compare_encoders(args: argparse.Namespace, device) -> tuple[list[str], Results]:
    """Time and memory of the image encoder."""
    ours, peer = (model.image_encoder for model in build_both(args, device))
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(args.images, 3, args.size, args.size, generator=generator).to(device)
    check_equal(ours(images), peer(images), 1e-4, 'embeddings')
    calls = {PEER: synchronized(lambda: peer(images), True), 'mmssl': synchronized(lambda: ours(images))}
    if device.type == 'cuda':
        half_images, half, peer_half = images.bfloat16(), copy.deepcopy(ours).bfloat16(), copy.deepcopy(peer)
        peer_half = peer_half.bfloat16()
        compiled = torch.compile(half)
        calls[f'{PEER}, bfloat16'] = synchronized(lambda: peer_half(half_images), True)
        calls['mmssl, bfloat16'] = synchronized(lambda: half(half_images))
        calls['mmssl, bfloat16, compiled'] = synchronized(lambda: compiled(half_images))
    seconds = medians(calls, args.rounds)
    title = f'Image encoder, {counted(args.images, "image")} of {args.size} x {args.size}'
    rows = [[name, f'{value:.3f}', f'{seconds[PEER] / value:.2f}'] for name, value in seconds.items()]
    lines = [f'## {title}', '', *table(['', 'seconds', FASTER], rows)]
    if not args.no_memory:
        memory = {name: peak_memory(name, args) for name in (PEER, 'mmssl')}
        rows = [[name, f'{value:.0f}', f'{value / memory[PEER]:.3f}'] for name, value in memory.items()]
        lines += table(['', 'peak memory MiB', f'relative to {PEER}'], rows)
    return lines, {'encoder': {FASTER: seconds[PEER] / seconds['mmssl']}}


def compare_decoders(args: argparse.Namespace, device) -> tuple[list[str], Results]:
    """Time of prompt encoder and mask decoder."""
    ours, peer = build_both(shallow(args), device)
    maps = random_maps(1, args, device)
    rows, results = [], Results()
    for count in args.prompts:
        points = random_points(count, args, device)
        (our_logits, our_ious), (logits, ious) = decode(ours, maps, points), decode(peer, maps, points)
        check_equal(our_logits, logits, 1e-4, 'logits')
        check_equal(our_ious, ious, 1e-5, 'predicted IoU')
        calls = {
            PEER: synchronized(lambda points=points: decode(peer, maps, points), True),
            'mmssl': synchronized(lambda points=points: decode(ours, maps, points)),
        }
        seconds = medians(calls, args.rounds)
        faster = seconds[PEER] / seconds['mmssl']
        results[f'decoder, {count} prompts'] = {FASTER: faster}
        rows.append([count, *(f'{count / seconds[name]:.2f}' for name in (PEER, 'mmssl')), f'{faster:.2f}'])
    header = ['prompts', f'{PEER}, prompts/s', 'mmssl, prompts/s', 'times faster']
    return ['## Prompts to masks', '', *table(header, rows)], results


def compare_ragged(args: argparse.Namespace, device) -> tuple[list[str], Results]:
    """Time of one call for eight images with different prompts against a call per group of prompts."""
    ours, peer = build_both(shallow(args), device)
    maps = random_maps(8, args, device)
    # image 0 has one prompt, of one point; image 7 has four, of one to four points
    prompts = [
        [random_points(1, args, device, 1 + index) for index in range(1 + image // 2)] for image in range(8)
    ]
    records = [
        {
            'point_coords': [coords[0] for coords, _ in of_image],
            'point_labels': [labels[0] for _, labels in of_image],
        }
        for of_image in prompts
    ]

    def separately(model):
        return [
            torch.cat([decode(model, maps[image : image + 1], points)[0] for points in of_image])
            for image, of_image in enumerate(prompts)
        ]

    def together():
        return [logits for logits, _ in ours.decode(maps, records, True)]

    for batched, single in zip(together(), separately(ours), strict=True):
        check_equal(batched, single, 1e-5, 'logits of one call and of single calls')
    peer_name, our_name = f'{PEER}, a call per prompt', 'mmssl, a call per prompt'
    calls = {
        peer_name: synchronized(lambda: separately(peer), True),
        our_name: synchronized(lambda: separately(ours)),
        'mmssl, one call': synchronized(together),
    }
    seconds = medians(calls, args.rounds)
    faster = {name: seconds[name] / seconds['mmssl, one call'] for name in (peer_name, our_name)}
    rows = [
        [name, f'{value:.3f}', f'{faster[name]:.2f}' if name in faster else '']
        for name, value in seconds.items()
    ]
    title = f'## Eight images, {sum(map(len, prompts))} prompts of one to four points'
    lines = [title, '', *table(['', 'seconds', 'one call is times faster'], rows)]
    return lines, {'ragged': {f'times faster than {name}': ratio for name, ratio in faster.items()}}


def compare_automatic(args: argparse.Namespace, device) -> tuple[list[str], Results]:
    """Time and memory of automatic masks."""
    peer = peer_with_varied_predictions(args).to(device)
    ours, settings, image = build_ours(args, peer).to(device), thresholds(args, peer), photograph(args)
    generators = {
        PEER: make_generator(PEER, peer, settings),
        'mmssl': make_generator('mmssl', ours, settings),
    }
    seconds: dict[str, list[float]] = {name: [] for name in generators}
    records = {}

    def generate(name: str) -> None:
        records[name] = synchronized(lambda: generators[name].generate(image), name == PEER)()

    for name in interleaved(list(generators), args.automatic_rounds):
        seconds[name].append(seconds_of(lambda name=name: generate(name)))
    times = {name: statistics.median(values) for name, values in seconds.items()}
    pixels, masks = differences(records['mmssl'], records[PEER])
    values = ', '.join(f'{name} {value:.4g}' for name, value in settings.items() if isinstance(value, float))
    grid = f'{args.points}x{args.points} points'
    rows = [[name, f'{value:.2f}', f'{times[PEER] / value:.2f}'] for name, value in times.items()]
    lines = [
        f'## Automatic masks, {grid}, photograph of {args.photo[0]} x {args.photo[1]}',
        '',
        f'{values}. {len(records["mmssl"])} records from both, in the same order with the same boxes; '
        f'{masks} of them differ, by {pixels} pixels in all.',
        '',
        *table(['', 'seconds', FASTER], rows),
    ]
    if not args.no_memory:
        few = {**settings, 'points_per_side': min(8, args.points)}
        rows = []
        with tempfile.TemporaryDirectory() as folder:
            weights = f'{folder}/sam.pth'
            torch.save(peer.state_dict(), weights)
            for name in generators:
                memory = [peak_memory(name, args, weights, case) for case in (few, settings)]
                rows.append([name, *(f'{value:.0f}' for value in memory)])
        few_grid = f'{few["points_per_side"]}x{few["points_per_side"]} points'
        lines += table(['peak memory MiB', few_grid, grid], rows)
    return lines, {'automatic': {FASTER: times[PEER] / times['mmssl']}}


def shallow(args: argparse.Namespace) -> argparse.Namespace:
    """Return the arguments with an encoder of one block, for parts that do not use it."""
    return argparse.Namespace(**{**vars(args), 'depth': 1})


def photograph(args: argparse.Namespace):
    """Return the photograph as (H, W, 3) uint8."""
    import numpy as np
    from PIL import Image
    from skimage.data import astronaut

    height, width = args.photo
    return np.asarray(Image.fromarray(astronaut()).resize((width, height)))


def peer_with_varied_predictions(args: argparse.Namespace) -> torch.nn.Module:
    """Build the package's model with weights that spread out its predictions for different points."""
    peer = build_peer(args)
    for name, parameter in peer.named_parameters():
        if 'iou_prediction_head' in name or '_attn' in name or 'cross_attn' in name:
            parameter.data.mul_(2)
    peer.mask_decoder.iou_prediction_head.layers[-1].bias.data.fill_(4)
    return peer


def thresholds(args: argparse.Namespace, peer: torch.nn.Module) -> dict:
    """Return arguments of the generators, and 'mask_threshold' of the models, from the package's masks."""
    from segment_anything import SamPredictor

    predictor, image = SamPredictor(peer), photograph(args)
    predictor.set_image(image)
    points = torch.rand(36, 1, 2, generator=torch.Generator().manual_seed(0)) * min(predictor.input_size)
    points = points.to(predictor.device)
    logits = predictor.predict_torch(points, torch.ones_like(points[..., 0]))[2]
    settings = dict(
        mask_threshold=logits.flatten()[::97].quantile(0.9).item(),
        stability_score_offset=0.1 * logits.std().item(),
        output_mode='coco_rle',
        box_nms_thresh=1.0,
    )
    unfiltered = dict(settings, points_per_side=6, pred_iou_thresh=-1.0, stability_score_thresh=-1.0)
    records = make_generator(PEER, peer, unfiltered).generate(image)
    ious = torch.tensor([record['predicted_iou'] for record in records])
    stability = torch.tensor([record['stability_score'] for record in records])
    min_iou = ious.quantile(2 / 3).item()
    return dict(
        settings,
        points_per_side=args.points,
        pred_iou_thresh=min_iou,
        stability_score_thresh=stability[ious > min_iou].nanquantile(0.5).item(),
    )


def make_generator(package: str, model: torch.nn.Module, settings: dict):
    """Build the automatic mask generator of a package."""
    settings = dict(settings)
    model.mask_threshold = settings.pop('mask_threshold')
    if package == PEER:
        from segment_anything import SamAutomaticMaskGenerator
    else:
        from mmssl.promptable import SamAutomaticMaskGenerator
    return SamAutomaticMaskGenerator(model, **settings)


def differences(ours: list[dict], peers: list[dict]) -> tuple[int, int]:
    """Return how many pixels and masks differ; end the benchmark if the records do not correspond."""
    from pycocotools import mask as coco

    if len(ours) != len(peers):
        raise SystemExit(f'{len(ours)} automatic masks, the package has {len(peers)}')
    pixels = masks = 0
    for our_record, peer_record in zip(ours, peers, strict=True):
        for key in ('bbox', 'point_coords', 'crop_box'):
            if our_record[key] != peer_record[key]:
                raise SystemExit(f'automatic masks differ in {key}: {our_record[key]} and {peer_record[key]}')
        rles = our_record['segmentation'], peer_record['segmentation']
        if rles[0] != rles[1]:
            masks += 1
            pixels += int((coco.decode(rles[0]) != coco.decode(rles[1])).sum())
    return pixels, masks


def peak_memory(
    package: str, args: argparse.Namespace, weights: str = '', settings: dict | None = None
) -> float:
    """Return the peak memory in MiB of encoding, or of automatic masks if ``settings`` are given."""
    options = {name: getattr(args, name) for name in ('model', 'size', 'images', 'threads', 'depth')}
    arguments = [package]
    for name, value in options.items():
        arguments += [f'--{name}', value]
    arguments += ['--photo', *args.photo, '--weights', weights, '--settings', json.dumps(settings or {})]
    return measured_in_child(*arguments)


@torch.no_grad()
def measure_memory(package: str, args: argparse.Namespace, device) -> None:
    """Print the peak memory in MiB, including the weights."""
    import segment_anything  # noqa: F401

    import mmssl.promptable  # noqa: F401

    torch.randn(64, 64) @ torch.randn(64, 64)
    settings, image = json.loads(args.settings), photograph(args) if args.weights else None
    before = peak_resident()
    model = (build_peer(args) if package == PEER else build_ours(args)).to(device)
    if settings:
        model.load_state_dict(torch.load(args.weights, map_location=device))
        generator = make_generator(package, model, settings)
        call = partial(generator.generate, image)
    else:
        call = partial(model.image_encoder, torch.randn(args.images, 3, args.size, args.size, device=device))
    synchronized(call, is_peer=package == PEER)()
    is_gpu = device.type == 'cuda'
    print(torch.cuda.max_memory_allocated() / 2**20 if is_gpu else peak_resident() - before)


PARTS = {
    'encoder': compare_encoders,
    'decoder': compare_decoders,
    'ragged': compare_ragged,
    'automatic': compare_automatic,
}


def main() -> None:
    """Measure, print and write."""
    parser = parser_of(__doc__, 'promptable', rounds=5, threads=None)
    parser.add_argument('--parts', nargs='+', default=list(PARTS), choices=list(PARTS))
    parser.add_argument('--model', default='vit_b', choices=list(ENCODERS))
    parser.add_argument('--size', type=int, default=1024)
    parser.add_argument('--images', type=int, default=1)
    parser.add_argument('--depth', type=int, default=0, help='blocks of the encoder (default: all)')
    parser.add_argument('--prompts', type=int, nargs='+', default=[16, 64])
    parser.add_argument('--points', type=int, default=32, help='points per side of the grid (default: 32)')
    parser.add_argument(
        '--photo', type=int, nargs=2, default=[512, 512], help='height and width of the photograph'
    )
    parser.add_argument('--automatic-rounds', type=int, default=1)
    parser.add_argument(
        '--quick', action='store_true', help='an encoder of three blocks for images of 256, 8x8 points'
    )
    for hidden in ('--child', '--weights', '--settings'):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.quick:
        args.size, args.depth, args.points, args.rounds = 256, 3, min(args.points, 8), 1
    use_threads(args.threads)
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    if args.child:
        measure_memory(args.child, args, device)
        return
    lines, results = [], Results()
    with torch.no_grad():
        for part in args.parts:
            part_lines, part_results = PARTS[part](args, device)
            lines += part_lines
            results |= part_results
    settings = f'{args.rounds} interleaved rounds'
    report(args, 'Segment Anything, part by part', lines, results, settings, ('segment-anything',))


if __name__ == '__main__':
    main()
