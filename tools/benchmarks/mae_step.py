"""Time of a full MAE training step (forward, backward, optimizer) against mmpretrain's MAE.

    python tools/benchmarks/mae_step.py                 # ViT-B, batch 8, the device at hand
    python tools/benchmarks/mae_step.py --batch 256     # a GPU

Both sides start from the same weights, take the same images and the same noise, and run as each ships:
    mmpretrain with its own parameter
groups and AdamW, ours with merged groups and fused AdamW. Rounds are interleaved; the table gives medians of
one run. FLOPs are those of matrix products, convolutions and attention in our step, counted by torch; the
plain product is 2048x2048x2048 in float32.
"""

import argparse
import contextlib
import importlib.metadata
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from timing import peak_resident, processor

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

SIZES = {'tiny': 192, 'small': 384, 'b': 768, 'l': 1024, 'h': 1280}


def build(side: str, arch: str):
    """(model, optimizer wrapper) of one side: 'host', 'ours' or 'ours-bf16'."""
    from mmengine.config import Config
    from mmengine.registry import MODELS, init_default_scope

    init_default_scope('mmpretrain')
    cfg = Config.fromfile(ROOT / 'configs/mae/mae_vit-base-p16_8xb512-amp-coslr-300e_in1k.py')
    preprocessor = {
        'type': 'SelfSupDataPreprocessor',
        **{k: v for k, v in cfg.data_preprocessor.items() if k != 'type'},
    }
    if side.startswith('host'):
        from mmengine.optim import build_optim_wrapper

        name = {'tiny': 'deit-tiny', 'small': 'deit-small'}.get(arch, arch)
        model = MODELS.build(
            {
                'type': 'MAE',
                'data_preprocessor': preprocessor,
                'backbone': {'type': 'MAEViT', 'arch': name, 'patch_size': 16, 'mask_ratio': 0.75},
                'neck': {'type': 'MAEPretrainDecoder', 'embed_dim': SIZES[arch]},
                'head': {
                    'type': 'MAEPretrainHead',
                    'norm_pix': True,
                    'loss': {'type': 'PixelReconstructionLoss', 'criterion': 'L2'},
                },
            }
        )
        none = {'decay_mult': 0.0}
        # configs/mae/mae_vit-base-p16_8xb512-amp-coslr-300e_in1k.py of mmpretrain
        optim = {
            'type': 'AmpOptimWrapper' if side == 'host-amp' else 'OptimWrapper',
            'optimizer': {'type': 'AdamW', 'lr': 2.4e-3, 'betas': (0.9, 0.95), 'weight_decay': 0.05},
            'paramwise_cfg': {
                'custom_keys': dict.fromkeys(('ln', 'bias', 'pos_embed', 'mask_token', 'cls_token'), none)
            },
        }
        if side == 'host-amp':
            optim['loss_scale'] = 'dynamic'
        return model, lambda: build_optim_wrapper(model, optim)
    from mmengine.optim import build_optim_wrapper

    cfg.model.backbone.arch, cfg.model.neck.embed_dim = arch, SIZES[arch]
    model = MODELS.build({'data_preprocessor': preprocessor, **cfg.model})
    optim = dict(cfg.optim_wrapper)
    if side == 'ours':
        optim = {**{k: v for k, v in optim.items() if k != 'dtype'}, 'type': 'OptimWrapper'}
    return model, lambda: build_optim_wrapper(model, optim)


class Side:
    """One model with its optimizer on the device, stepping on fixed images and noise."""

    def __init__(self, side: str, args, device):
        import torch

        self.name, self.device = side, device
        torch.manual_seed(0)
        self.model, make = build(side, args.arch)
        torch.manual_seed(0)
        reference, _ = build('ours', args.arch)
        self.model.load_state_dict(reference.state_dict(), strict=True)
        del reference
        self.model.to(device).train()
        if args.compile and side.startswith('ours'):
            for block in [*self.model.backbone.layers, *self.model.neck.decoder_blocks]:
                block.compile()
        self.optim = make()
        for group in self.optim.optimizer.param_groups:
            group['lr'] = 1e-4
        generator = torch.Generator().manual_seed(1)
        self.images = torch.randint(0, 256, (args.batch, 3, 224, 224), generator=generator, dtype=torch.uint8)
        self.noise = torch.rand(args.batch, 196, generator=generator).to(device)

    def step(self) -> float:
        """Seconds of one step; the loss is kept."""
        import torch

        from mmssl.ops.fast.linear import enabled

        draw = torch.rand
        torch.rand = lambda *size, **_: self.noise
        # the peer runs on stock torch
        products = enabled() if self.name.startswith('ours') else contextlib.nullcontext()
        try:
            self._synchronize()
            with products:
                start = time.perf_counter()
                losses = self.model.train_step({'inputs': self.images, 'data_samples': None}, self.optim)
                self._synchronize()
                seconds = time.perf_counter() - start
        finally:
            torch.rand = draw
        self.loss = losses['loss'].item()
        return seconds

    def _synchronize(self) -> None:
        import torch

        if self.device.type == 'cuda':
            torch.cuda.synchronize()


def peak_memory(side: str, args) -> float:
    """MiB that three steps of one side need at most, beyond what the imports need, in a process of its own."""
    command = [
        sys.executable,
        __file__,
        '--child',
        side,
        '--arch',
        args.arch,
        '--batch',
        str(args.batch),
        '--threads',
        str(args.threads),
    ]
    return float(
        subprocess.run(
            command + ['--compile'] * args.compile, check=True, capture_output=True, text=True
        ).stdout.split()[-1]
    )


def child(side: str, args) -> None:
    """Measure the memory of one side and print it."""
    import torch

    torch.set_num_threads(args.threads)
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    import mmpretrain.models  # noqa: F401
    from mmengine.logging import MMLogger

    MMLogger.get_instance('benchmark', log_level='ERROR')
    before = peak_resident()
    one = Side(side, args, device)
    for _ in range(3):
        one.step()
    if device.type == 'cuda':
        print(torch.cuda.max_memory_allocated() / 2**20)
    else:
        print(peak_resident() - before)


def plain_product(device) -> float:
    """GFLOP/s of a float32 product of 2048x2048 matrices, best of ten."""
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


def count_flops(side: Side) -> float:
    """FLOPs of the products in one step."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        side.step()
    return float(counter.get_total_flops())


def main() -> None:
    """Run the comparison, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--arch', default='b', choices=list(SIZES))
    parser.add_argument('--batch', type=int, default=8)
    parser.add_argument('--rounds', type=int, default=10)
    parser.add_argument('--warmup', type=int, default=2)
    parser.add_argument('--threads', type=int, default=os.cpu_count())
    parser.add_argument('--compile', action='store_true', help='compile our transformer blocks')
    parser.add_argument('--out', default=str(ROOT / 'docs/benchmarks/mae_step.md'))
    parser.add_argument('--child', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child, args)
        return
    import torch
    from mmengine.logging import MMLogger

    MMLogger.get_instance('benchmark', log_level='ERROR')  # the host logs a line a parameter
    torch.set_num_threads(args.threads)
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    names = (
        ['host-amp', 'host', 'ours', 'ours-bf16'] if device.type == 'cuda' else ['host', 'ours', 'ours-bf16']
    )
    sides = {name: Side(name, args, device) for name in names}
    flops = count_flops(sides['ours'])
    for side in (sides[name] for name in names if name != 'ours'):
        side.step()  # every side has made as many steps as the counted one
    for _ in range(args.warmup):
        for side in sides.values():
            side.step()
    seconds = {name: [] for name in names}
    products = []
    for number in range(args.rounds):
        for name in names if number % 2 else names[::-1]:
            seconds[name].append(sides[name].step())
        products.append(plain_product(device))
    median = {name: statistics.median(values) for name, values in seconds.items()}
    losses = {name: side.loss for name, side in sides.items()}
    del sides
    memory = {name: peak_memory(name, args) for name in names}
    product = statistics.median(products)
    version = importlib.metadata.version
    title = {
        'host': 'mmpretrain, float32',
        'host-amp': 'mmpretrain, its AMP (float16)',
        'ours': 'mmssl, float32',
        'ours-bf16': 'mmssl, bfloat16',
    }
    lines = [
        '| step | median s | fastest s | peak memory MiB | loss after the last step |',
        '|---|---|---|---|---|',
    ]
    lines += [
        f'| {title[name]} | {median[name]:.3f} | {min(seconds[name]):.3f} | {memory[name]:.0f} | {losses[name]:.5f} |'
        for name in names
    ]
    pairs = [('ours', 'host'), ('ours-bf16', 'ours')] + (
        [('ours-bf16', 'host-amp')] if 'host-amp' in names else []
    )
    lines += ['', '| ratio | time | memory |', '|---|---|---|']
    lines += [
        f'| {title[a]} / {title[b]} | {median[a] / median[b]:.3f} | {memory[a] / memory[b]:.3f} |'
        for a, b in pairs
    ]
    rate = flops / median['ours'] / 1e9
    lines += [
        '',
        f'Our float32 step does {flops / 1e9:.0f} GFLOP in products, {rate:.0f} GFLOP/s: {rate / product:.0%} of a plain '
        f'2048x2048x2048 product on the same threads ({product:.0f} GFLOP/s).',
    ]
    name = torch.cuda.get_device_name() if device.type == 'cuda' else processor()
    head = [
        '# A training step of MAE',
        '',
        f'`python tools/benchmarks/mae_step.py {" ".join(sys.argv[1:])}`'.replace(' `', '`'),
        '',
        f'{time.strftime("%Y-%m-%d")}, {name}, {args.threads} threads, ViT-{args.arch.upper()}/16 at 224, batch {args.batch}, '
        f'{args.rounds} interleaved rounds; torch {torch.__version__}, onedl-mmpretrain {version("onedl-mmpretrain")}, '
        f'mmssl {__import__("mmssl").__version__}.',
        '',
    ]
    text = '\n'.join(head + lines) + '\n'
    print(text)
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    Path(args.out).write_text(text)


if __name__ == '__main__':
    main()
