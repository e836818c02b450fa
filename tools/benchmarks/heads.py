"""Time of GCN's global convolutions and of the whole head, forward and backward, against the plain unfused form of the same weights.

    python tools/benchmarks/heads.py

The levels are those of the paper: a ResNet on an image of 512 x 512, 21 classes. "As chosen" is what the block does by itself; where it
chooses the plain form the two sides are the same code, and the ratio shows the noise. Outputs and gradients are compared before the
timing. The device is a GPU where there is one.
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

    They are checked to agree: scores to 1e-5, gradients to 1e-4.
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
        if not error < (1e-4 if index else 1e-5):
            raise SystemExit(f'fused and plain differ by {error:.1e} of the largest {"gradient" if index else "score"}')
    return steps


def main() -> None:
    """Time, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--batch', type=int, default=2)
    parser.add_argument('--rounds', type=int, default=11)
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--kernels', type=int, nargs='+', default=[7, 15])
    parser.add_argument('--out', default=str(ROOT / 'docs/benchmarks/heads.md'))
    args = parser.parse_args()
    from timing import medians, report

    from mmssl.segmentation import GlobalConvBlock, GlobalConvHead
    torch.set_num_threads(args.threads)
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    torch.manual_seed(0)
    maps = [torch.randn(args.batch, width, side, side, device=device) for width, side in LEVELS]
    lines = ['| what | chosen | as chosen ms | plain ms | as chosen / plain |', '|---|---|---|---|---|']

    def row(name: str, form: str, steps: dict) -> None:
        times = medians(steps, args.rounds, least=0.02)
        lines.append(f'| {name} | {form} | {1e3 * times["chosen"]:.1f} | {1e3 * times["plain"]:.1f} | '
                     f'{times["chosen"] / times["plain"]:.2f} |')

    for k in args.kernels:
        for x, (width, side) in zip(maps, LEVELS, strict=True):
            block = GlobalConvBlock(width, CLASSES, k).to(device)
            row(f'block, {width} channels at {side}x{side}, k {k}', 'fused' if block.fused else 'plain',
                pair(block, [x], lambda module, own: module(own[0])))
    head = GlobalConvHead([width for width, _ in LEVELS], CLASSES, kernel_size=15, loss_decode={'type': 'mmseg.CrossEntropyLoss'})
    head.init_weights()
    row('GlobalConvHead, four levels, k 15, nine refinements', 'by level', pair(head.to(device), maps, lambda module, own: module(own)))
    report(args.out, 'GCN heads, fused and plain', lines, f'batch {args.batch}, {args.threads} threads, {args.rounds} interleaved rounds',
           'onedl-mmsegmentation')


if __name__ == '__main__':
    main()
