"""Time of GCN's global convolutions and of the whole head, forward and backward, against the unfused form.

    python tools/benchmarks/heads.py
    python tools/benchmarks/heads.py --configs configs/camvid/*.py --out docs/benchmarks/camvid_step.md

The levels are those of the paper: a ResNet on an image of 512 x 512, 21 classes. "As chosen" is what the
block does by itself; where it chooses the unfused form, both sides are the same code and the ratio shows the
noise. Outputs and gradients are compared before the timing. With ``--configs`` training steps of these
configs are timed instead: batch, crop, precision and optimizer as there, random images. The device is a GPU
if there is one.
"""

import argparse
import copy
import sys
from pathlib import Path

import torch
from timing import ROOT, Results, medians, parser_of, report, table, use_threads

sys.path.insert(0, str(ROOT))
# channels and side of the map, image of 512 x 512
LEVELS = [(256, 128), (512, 64), (1024, 32), (2048, 16)]
CLASSES = 21
PACKAGES = ('onedl-mmsegmentation',)


def steps_of(module: torch.nn.Module, inputs: list[torch.Tensor], forward) -> dict:
    """Return training steps of a module as it is ('chosen') and with every block unfused ('plain').

    They are checked to agree: scores to 1e-5, gradients to 1e-3, because rounding can change the side of a
    ReLU on which a value is.

    Args:
        module: A module with GlobalConvBlocks.
        inputs: Its inputs.
        forward: Function of a module and inputs that returns the output.
    """
    from mmssl.segmentation import GlobalConvBlock

    plain = copy.deepcopy(module)
    for block in plain.modules():
        if isinstance(block, GlobalConvBlock):
            block.fused = False
    values, steps = [], {}
    for name, form in (('chosen', module), ('plain', plain)):
        leaves = [tensor.clone().requires_grad_() for tensor in inputs]

        def step(form=form, leaves=leaves):
            out = forward(form, leaves)
            grads = torch.autograd.grad(out, [*leaves, *form.parameters()], torch.ones_like(out))
            if out.is_cuda:
                torch.cuda.synchronize()
            return [out, *grads]

        values.append(step())
        steps[name] = step
    for index, (fused, unfused) in enumerate(zip(*values, strict=True)):
        error = ((fused - unfused).abs().max() / unfused.abs().max().clamp(min=1e-12)).item()
        if not error < (1e-3 if index else 1e-5):
            what = 'gradient' if index else 'score'
            raise SystemExit(f'the fused and the plain form differ by {error:.1e} of the largest {what}')
    return steps


def training_step(path: str):
    """Return a call that runs one training step of a segmentation config, and its number of parameters."""
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
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    return (lambda: model.train_step({'inputs': images, 'data_samples': samples}, optim)), num_parameters


def compare_configs(args: argparse.Namespace) -> None:
    """Time training steps of configs, print and write."""
    steps, num_parameters = {}, {}
    for path in args.configs:
        name = Path(path).stem.partition('_')[0]
        steps[name], num_parameters[name] = training_step(path)
    seconds = medians(steps, args.rounds)
    rows = [[name, f'{num_parameters[name] / 1e6:.2f} M', f'{seconds[name]:.2f}'] for name in steps]
    lines = table(['config', 'parameters', 'seconds per training step'], rows)
    results = {name: {'seconds': value} for name, value in seconds.items()}
    settings = f'{args.rounds} interleaved rounds'
    report(args, 'Training steps of segmentation configs', lines, results, settings, PACKAGES)


def main() -> None:
    """Measure, print and write."""
    parser = parser_of(__doc__, 'heads', rounds=11)
    parser.add_argument('--batch', type=int, default=2)
    parser.add_argument('--kernels', type=int, nargs='+', default=[7, 15])
    parser.add_argument('--configs', nargs='+', help='time training steps of these configs instead')
    args = parser.parse_args()
    use_threads(args.threads)
    if args.configs:
        compare_configs(args)
        return
    from mmssl.segmentation import GlobalConvBlock, GlobalConvHead

    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    torch.manual_seed(0)
    maps = [torch.randn(args.batch, channels, side, side, device=device) for channels, side in LEVELS]
    rows, results = [], Results()

    def add_row(name: str, form: str, steps: dict) -> None:
        seconds = medians(steps, args.rounds, min_seconds=0.02)
        faster = seconds['plain'] / seconds['chosen']
        results[name] = {'times faster than the plain form': faster}
        times = [f'{1e3 * seconds[key]:.1f}' for key in ('chosen', 'plain')]
        rows.append([name, form, *times, f'{faster:.2f}'])

    for kernel in args.kernels:
        for x, (channels, side) in zip(maps, LEVELS, strict=True):
            block = GlobalConvBlock(channels, CLASSES, kernel).to(device)
            steps = steps_of(block, [x], lambda module, inputs: module(inputs[0]))
            name = f'block, {channels} channels at {side}x{side}, k {kernel}'
            add_row(name, 'fused' if block.fused else 'plain', steps)
    loss = {'type': 'mmseg.CrossEntropyLoss'}
    head = GlobalConvHead([channels for channels, _ in LEVELS], CLASSES, kernel_size=15, loss_decode=loss)
    head.init_weights()
    steps = steps_of(head.to(device), maps, lambda module, inputs: module(inputs))
    add_row('GlobalConvHead, four levels, k 15, nine refinements', 'by level', steps)
    header = ['module', 'chosen form', 'as chosen, ms', 'plain, ms', 'times faster']
    settings = f'batch {args.batch}, {args.rounds} interleaved rounds'
    report(args, 'GCN heads, fused and plain', table(header, rows), results, settings, PACKAGES)


if __name__ == '__main__':
    main()
