"""Time of GCN's global convolutions and of the whole head, forward and backward, against the plain unfused form of the same weights.

    python tools/benchmarks/heads.py
    python tools/benchmarks/heads.py --configs configs/camvid/*.py --out docs/benchmarks/camvid_step.md

The levels are those of the paper: a ResNet on an image of 512 x 512, 21 classes. "As chosen" is what the
    block does by itself; where it
chooses the plain form the two sides are the same code, and the ratio shows the noise. Outputs and gradients
are compared before the timing. The device is a GPU where there is one. With ``--configs`` it is training
steps of these configs instead: batch, crop, precision and optimizer as there, random images.
"""

import argparse
import copy
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
# channels and side of the map, image of 512 x 512
LEVELS = [(256, 128), (512, 64), (1024, 32), (2048, 16)]
CLASSES = 21


def pair(module: torch.nn.Module, inputs: list[torch.Tensor], call) -> dict:
    """The module as it is and with every block unfused, as steps forward and backward.

    They are checked to agree: scores to 1e-5, gradients to 1e-3 (rounding moves what lies at the bend of a
        ReLU).
    """
    from mmssl.segmentation import GlobalConvBlock

    plain = copy.deepcopy(module)
    for block in plain.modules():
        if isinstance(block, GlobalConvBlock):
            block.fused = False
    values, steps = [], {}
    for name, side in (('chosen', module), ('plain', plain)):
        own = [x.clone().requires_grad_() for x in inputs]

        def step(side=side, own=own):
            out = call(side, own)
            grads = torch.autograd.grad(out, [*own, *side.parameters()], torch.ones_like(out))
            if out.is_cuda:
                torch.cuda.synchronize()
            return [out, *grads]

        values.append(step())
        steps[name] = step
    for index, (fast, slow) in enumerate(zip(*values, strict=True)):
        error = ((fast - slow).abs().max() / slow.abs().max().clamp(min=1e-12)).item()
        if not error < (1e-3 if index else 1e-5):
            raise SystemExit(
                f'fused and plain differ by {error:.1e} of the largest {"gradient" if index else "score"}'
            )
    return steps


def training_step(path: str):
    """A call that makes one training step of a segmentation config, and the number of its parameters."""
    from mmengine.config import Config
    from mmengine.optim import build_optim_wrapper
    from mmengine.registry import MODELS, init_default_scope
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).train()
    optim = build_optim_wrapper(model, cfg.optim_wrapper)
    height, width = model.data_preprocessor.size
    samples = [
        SegDataSample(
            metainfo={'img_shape': (height, width), 'ori_shape': (height, width)},
            gt_sem_seg=PixelData(data=torch.randint(0, model.num_classes, (1, height, width))),
        )
        for _ in range(cfg.train_dataloader.batch_size)
    ]
    images = [torch.randint(0, 256, (3, height, width), dtype=torch.uint8) for _ in samples]
    return (lambda: model.train_step({'inputs': images, 'data_samples': samples}, optim)), sum(
        p.numel() for p in model.parameters()
    )


def compare_configs(args) -> None:
    """Time training steps of configs, print and write."""
    from timing import medians, report

    steps, sizes = {}, {}
    for path in args.configs:
        name = Path(path).stem.partition('_')[0]
        steps[name], sizes[name] = training_step(path)
    times = medians(steps, args.rounds)
    lines = ['| config | parameters | training step s |', '|---|---|---|']
    lines += [f'| {name} | {sizes[name] / 1e6:.2f} M | {times[name]:.2f} |' for name in steps]
    report(
        args.out,
        'Training steps of segmentation configs',
        lines,
        f'{threads(args)}, {args.rounds} interleaved rounds',
        'onedl-mmsegmentation',
    )


def threads(args) -> str:
    """How many threads, in words."""
    return f'{args.threads} thread{"s" * (args.threads > 1)}'


def main() -> None:
    """Time, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--batch', type=int, default=2)
    parser.add_argument('--rounds', type=int, default=11)
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--kernels', type=int, nargs='+', default=[7, 15])
    parser.add_argument('--configs', nargs='+', help='time training steps of these instead')
    parser.add_argument('--out', default=str(ROOT / 'docs/benchmarks/heads.md'))
    args = parser.parse_args()
    from timing import medians, report

    from mmssl.segmentation import GlobalConvBlock, GlobalConvHead

    torch.set_num_threads(args.threads)
    if args.configs:
        compare_configs(args)
        return
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    torch.manual_seed(0)
    maps = [torch.randn(args.batch, width, side, side, device=device) for width, side in LEVELS]
    lines = ['| what | chosen | as chosen ms | plain ms | as chosen / plain |', '|---|---|---|---|---|']

    def row(name: str, form: str, steps: dict) -> None:
        times = medians(steps, args.rounds, least=0.02)
        lines.append(
            f'| {name} | {form} | {1e3 * times["chosen"]:.1f} | {1e3 * times["plain"]:.1f} | '
            f'{times["chosen"] / times["plain"]:.2f} |'
        )

    for k in args.kernels:
        for x, (width, side) in zip(maps, LEVELS, strict=True):
            block = GlobalConvBlock(width, CLASSES, k).to(device)
            row(
                f'block, {width} channels at {side}x{side}, k {k}',
                'fused' if block.fused else 'plain',
                pair(block, [x], lambda module, own: module(own[0])),
            )
    head = GlobalConvHead(
        [width for width, _ in LEVELS],
        CLASSES,
        kernel_size=15,
        loss_decode={'type': 'mmseg.CrossEntropyLoss'},
    )
    head.init_weights()
    row(
        'GlobalConvHead, four levels, k 15, nine refinements',
        'by level',
        pair(head.to(device), maps, lambda module, own: module(own)),
    )
    report(
        args.out,
        'GCN heads, fused and plain',
        lines,
        f'batch {args.batch}, {threads(args)}, {args.rounds} interleaved rounds',
        'onedl-mmsegmentation',
    )


if __name__ == '__main__':
    main()
