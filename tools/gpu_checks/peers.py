"""Training steps of other packages, where they are installed, with the images and precision of ours."""

import argparse
import copy
from typing import Any

import torch

from gpu_checks.check import Check
from gpu_checks.measuring import peak_memory, seconds_of

# images in a step; with --quick a few
MAE_BATCH = 256
DINO_BATCH = 64
QUICK_BATCH = 2


def measure_mae(check: Check) -> None:
    """Measure mmpretrain's MAE with its own mixed precision."""
    import mmpretrain.models  # noqa: F401
    from mae_step import build

    torch.manual_seed(0)
    # its mixed precision is float16, on GPUs only
    model, build_optimizer = build('peer-amp' if check.cuda else 'peer', 'tiny' if check.quick else 'b')
    model.to(check.device).train()
    optimizer = build_optimizer()
    count = QUICK_BATCH if check.quick else MAE_BATCH
    data = {'inputs': random_images(count, 224), 'data_samples': None}
    report(check, 'MAE-B, onedl-mmpretrain AMP', lambda: model.train_step(data, optimizer), count)


def measure_dino(check: Check) -> None:
    """Measure lightly's DINO in bfloat16."""
    from selfsup_step import LightlyDINO

    torch.manual_seed(0)
    count = QUICK_BATCH if check.quick else DINO_BATCH
    peer = LightlyDINO([random_images(count, size) for size in [224] * 2 + [96] * 8])
    for module in (peer.student_backbone, peer.student_head, peer.teacher_backbone, peer.teacher_head):
        module.to(check.device).train()
    peer.criterion.to(check.device)
    peer.views = [view.to(check.device) for view in peer.views]

    def step() -> None:
        with torch.autocast(check.device.type, torch.bfloat16):
            peer.step()

    report(check, 'DINO-S, lightly', step, count)


def random_images(count: int, size: int) -> torch.Tensor:
    """Draw images (B, 3, size, size), uint8."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)


def report(check: Check, name: str, step: Any, count: int) -> None:
    """Time a step and add its row."""
    seconds = seconds_of(step, check)
    memory = peak_memory(step, check.device)
    check.add(name, ms=1e3 * seconds, images_per_second=count / seconds, batch=count, peak_gib=memory)


def sam_arguments(quick: bool) -> argparse.Namespace:
    """Return the arguments of tools/benchmarks/promptable.py."""
    size, depth, points, photo = (64, 2, 2, (48, 64)) if quick else (1024, 0, 32, (512, 512))
    return argparse.Namespace(
        model='vit_b', size=size, depth=depth, points=points, photo=photo, images=1, rounds=1, threads=1
    )


def measure_sam_encoder(check: Check) -> None:
    """Measure segment_anything's image encoder in float32 and bfloat16."""
    from promptable import build_peer

    args = sam_arguments(check.quick)
    encoder = build_peer(args).image_encoder.to(check.device)
    image = torch.randn(1, 3, args.size, args.size, device=check.device)
    with torch.no_grad():
        for dtype in (torch.float32, torch.bfloat16):
            module, data = copy.deepcopy(encoder).to(dtype), image.to(dtype)
            name = str(dtype).removeprefix('torch.')
            report(check, f'SAM-B encoder, segment_anything, {name}', lambda m=module, x=data: m(x), 1)


def measure_automatic_masks(check: Check) -> None:
    """Measure automatic masks of both packages with the same weights and thresholds, 32 x 32 points."""
    from promptable import (
        PEER,
        build_ours,
        make_generator,
        peer_with_varied_predictions,
        photograph,
        thresholds,
    )

    args = sam_arguments(check.quick)
    with torch.no_grad():
        peer = peer_with_varied_predictions(args).to(check.device)
        settings = thresholds(args, peer)
        image = photograph(args)
        ours = build_ours(args, peer).to(check.device)
        seconds = {}
        for name, model, dtype in (
            (PEER, peer, None),
            ('mmssl', ours, None),
            ('mmssl, bfloat16', ours, 'half'),
        ):
            generator = make_generator(name if name == PEER else 'mmssl', model, settings)

            def generate(generator=generator, dtype=dtype):
                with torch.autocast(check.device.type, torch.bfloat16, enabled=dtype is not None):
                    return generator.generate(image)

            count = len(generate())
            seconds[name] = seconds_of(generate, check, rounds=3, warmup=0, limit=10)
            ratio = seconds[name] / seconds[PEER]
            check.add(
                f'automatic masks, {name}', ms=1e3 * seconds[name], masks=count, time_relative_to_peer=ratio
            )


MEASUREMENTS = {
    'MAE-B, onedl-mmpretrain AMP': measure_mae,
    'DINO-S, lightly': measure_dino,
    'SAM-B encoder, segment_anything': measure_sam_encoder,
    'automatic masks': measure_automatic_masks,
}
