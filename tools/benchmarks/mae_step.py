"""Time of a whole MAE training step (forward, backward, optimizer) against mmpretrain's MAE.

    python tools/benchmarks/mae_step.py                 # ViT-B, batch 8, the device at hand
    python tools/benchmarks/mae_step.py --batch 256     # a GPU

Both start from the same weights, get the same images and the same noise, and run as each ships: mmpretrain
with its own parameter groups and AdamW, ours with merged groups and fused AdamW. FLOPs are those of matrix
products, convolutions and attention in our step, counted by torch; the plain product is 2048x2048x2048 in
float32.
"""

import argparse
import contextlib
import statistics
import sys
import time
from typing import NamedTuple

from timing import (
    ROOT,
    Results,
    interleaved,
    measured_in_child,
    parser_of,
    peak_resident,
    report,
    table,
    use_threads,
)

sys.path.insert(0, str(ROOT))

SIZES = {'tiny': 192, 'small': 384, 'b': 768, 'l': 1024, 'h': 1280}
CONFIG = 'configs/mae/mae_vit-base-p16_8xb512-amp-coslr-300e_in1k.py'
TITLES = {
    'peer': 'mmpretrain, float32',
    'peer-amp': 'mmpretrain, its AMP (float16)',
    'ours': 'mmssl, float32',
    'ours-bf16': 'mmssl, bfloat16',
}
PAIRS = [('ours', 'peer'), ('ours-bf16', 'ours'), ('ours-bf16', 'peer-amp')]


def build(variant: str, arch: str):
    """Build the model of a variant and a function that builds its optimizer wrapper."""
    from mmengine.config import Config
    from mmengine.optim import build_optim_wrapper
    from mmengine.registry import MODELS, init_default_scope

    init_default_scope('mmpretrain')
    cfg = Config.fromfile(ROOT / CONFIG)
    statistics_of_pixels = {key: value for key, value in cfg.data_preprocessor.items() if key != 'type'}
    preprocessor = {'type': 'SelfSupDataPreprocessor', **statistics_of_pixels}
    if variant.startswith('peer'):
        model, optim = peer_settings(arch, with_amp=variant == 'peer-amp')
    else:
        cfg.model.backbone.arch, cfg.model.neck.embed_dim = arch, SIZES[arch]
        model, optim = cfg.model, dict(cfg.optim_wrapper)
        if variant == 'ours':
            optim = {key: value for key, value in optim.items() if key != 'dtype'}
            optim['type'] = 'OptimWrapper'
    model = MODELS.build({'data_preprocessor': preprocessor, **model})
    return model, lambda: build_optim_wrapper(model, optim)


def peer_settings(arch: str, with_amp: bool) -> tuple[dict, dict]:
    """Return model and optimizer wrapper of mmpretrain's configs/mae."""
    name = {'tiny': 'deit-tiny', 'small': 'deit-small'}.get(arch, arch)
    loss = {'type': 'PixelReconstructionLoss', 'criterion': 'L2'}
    model = {
        'type': 'MAE',
        'backbone': {'type': 'MAEViT', 'arch': name, 'patch_size': 16, 'mask_ratio': 0.75},
        'neck': {'type': 'MAEPretrainDecoder', 'embed_dim': SIZES[arch]},
        'head': {'type': 'MAEPretrainHead', 'norm_pix': True, 'loss': loss},
    }
    undecayed = ('ln', 'bias', 'pos_embed', 'mask_token', 'cls_token')
    optim = {
        'type': 'AmpOptimWrapper' if with_amp else 'OptimWrapper',
        'optimizer': {'type': 'AdamW', 'lr': 2.4e-3, 'betas': (0.9, 0.95), 'weight_decay': 0.05},
        'paramwise_cfg': {'custom_keys': {key: {'decay_mult': 0.0} for key in undecayed}},
    }
    return model, {**optim, 'loss_scale': 'dynamic'} if with_amp else optim


class Variant:
    """A model with its optimizer on the device, stepping on fixed images and noise.

    Args:
        name: A key of ``TITLES``.
        args: Arguments of the command.
        device: Device of the model.
    """

    def __init__(self, name: str, args: argparse.Namespace, device):
        import torch

        self.name = name
        self.device = device
        torch.manual_seed(0)
        self.model, build_optim = build(name, args.arch)
        torch.manual_seed(0)
        reference, _ = build('ours', args.arch)
        self.model.load_state_dict(reference.state_dict(), strict=True)
        del reference
        self.model.to(device).train()
        if args.compile and name.startswith('ours'):
            for block in [*self.model.backbone.layers, *self.model.neck.decoder_blocks]:
                block.compile()
        self.optim = build_optim()
        for group in self.optim.optimizer.param_groups:
            group['lr'] = 1e-4
        generator = torch.Generator().manual_seed(1)
        self.images = torch.randint(0, 256, (args.batch, 3, 224, 224), generator=generator, dtype=torch.uint8)
        self.noise = torch.rand(args.batch, 196, generator=generator).to(device)

    def step(self) -> float:
        """Run one step and return its seconds; ``loss`` holds its loss."""
        import torch

        from mmssl.ops.fast.linear import enabled

        # the peer runs on plain torch
        products = enabled() if self.name.startswith('ours') else contextlib.nullcontext()
        rand, torch.rand = torch.rand, lambda *size, **kwargs: self.noise
        try:
            self._synchronize()
            with products:
                start = time.perf_counter()
                losses = self.model.train_step({'inputs': self.images, 'data_samples': None}, self.optim)
                self._synchronize()
                seconds = time.perf_counter() - start
        finally:
            torch.rand = rand
        self.loss = losses['loss'].item()
        return seconds

    def _synchronize(self) -> None:
        import torch

        if self.device.type == 'cuda':
            torch.cuda.synchronize()


def measure_memory(name: str, args: argparse.Namespace, device) -> None:
    """Print the peak memory in MiB of three steps, beyond what the imports need."""
    import mmpretrain.models  # noqa: F401
    import torch

    before = peak_resident()
    variant = Variant(name, args, device)
    for _ in range(3):
        variant.step()
    is_gpu = device.type == 'cuda'
    print(torch.cuda.max_memory_allocated() / 2**20 if is_gpu else peak_resident() - before)


def plain_product(device) -> float:
    """Return GFLOP/s of a float32 product of 2048x2048 matrices, best of ten."""
    import torch

    left, right = torch.randn(2, 2048, 2048, device=device)
    best = float('inf')
    for _ in range(10):
        start = time.perf_counter()
        left @ right
        if device.type == 'cuda':
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * 2048**3 / best / 1e9


def count_flops(variant: Variant) -> float:
    """Return the FLOPs of the products in one step."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        variant.step()
    return float(counter.get_total_flops())


class Timing(NamedTuple):
    """Results of interleaved training steps.

    Attributes:
        seconds: Variant -> seconds of its steps.
        losses: Variant -> loss of its last step.
        flops: FLOPs of the products in our step.
        products: GFLOP/s of plain products between the rounds.
    """

    seconds: dict[str, list[float]]
    losses: dict[str, float]
    flops: float
    products: list[float]


def time_steps(names: list[str], args: argparse.Namespace, device) -> Timing:
    """Time training steps of all variants in turn."""
    variants = {name: Variant(name, args, device) for name in names}
    flops = count_flops(variants['ours'])
    for name in names:
        if name != 'ours':
            variants[name].step()  # all have made as many steps as the counted one
    for _ in range(args.warmup):
        for variant in variants.values():
            variant.step()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    products = []
    for index, name in enumerate(interleaved(names, args.rounds)):
        if index % len(names) == 0:
            products.append(plain_product(device))
        seconds[name].append(variants[name].step())
    return Timing(seconds, {name: variant.loss for name, variant in variants.items()}, flops, products)


def main() -> None:
    """Measure, print and write."""
    parser = parser_of(__doc__, 'mae_step', rounds=10, threads=None)
    parser.add_argument('--arch', default='b', choices=list(SIZES))
    parser.add_argument('--batch', type=int, default=8)
    parser.add_argument('--warmup', type=int, default=2, help='steps before the timing (default: 2)')
    parser.add_argument('--compile', action='store_true', help='compile our transformer blocks')
    parser.add_argument('--child', help=argparse.SUPPRESS)
    args = parser.parse_args()
    import torch
    from mmengine.logging import MMLogger

    MMLogger.get_instance('benchmark', log_level='ERROR')  # mmengine logs a line per parameter
    use_threads(args.threads)
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    if args.child:
        measure_memory(args.child, args, device)
        return
    names = [name for name in TITLES if name != 'peer-amp' or device.type == 'cuda']
    timing = time_steps(names, args, device)
    seconds, losses = timing.seconds, timing.losses
    memory = {name: float('nan') for name in names}
    if not args.no_memory:
        options = ['--arch', args.arch, '--batch', args.batch, '--threads', args.threads]
        options += ['--compile'] * args.compile
        memory = {name: measured_in_child(name, *options) for name in names}
    median = {name: statistics.median(values) for name, values in seconds.items()}
    rows = [
        [
            TITLES[name],
            f'{median[name]:.3f}',
            f'{min(seconds[name]):.3f}',
            f'{memory[name]:.0f}',
            f'{losses[name]:.5f}',
        ]
        for name in names
    ]
    header = ['step', 'median s', 'fastest s', 'peak memory MiB', 'loss after the last step']
    lines, results = table(header, rows), Results()
    rows = []
    for first, second in PAIRS:
        if second in names:
            faster = median[second] / median[first]
            comparison = f'{TITLES[first]} against {TITLES[second]}'
            results[comparison] = {'times faster': faster}
            rows.append([comparison, f'{faster:.2f}', f'{memory[first] / memory[second]:.3f}'])
    lines += table(['comparison', 'times faster', 'memory, ratio'], rows)
    gflop, product = timing.flops / 1e9, statistics.median(timing.products)
    rate = gflop / median['ours']
    lines += [
        f'Our float32 step does {gflop:.0f} GFLOP in products, {rate:.0f} GFLOP/s: {rate / product:.0%} '
        f'of a plain 2048x2048x2048 product on the same threads ({product:.0f} GFLOP/s).'
    ]
    settings = f'ViT-{args.arch.upper()}/16 at 224, batch {args.batch}, {args.rounds} interleaved rounds'
    report(args, 'A training step of MAE', lines, results, settings, ('onedl-mmpretrain',))


if __name__ == '__main__':
    main()
