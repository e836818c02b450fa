"""Time of a full training step (forward, backward, optimizer, momentum encoder) against the same method of a released package.

    python tools/benchmarks/selfsup_step.py                      # every method that a peer has, and the
    momentum update python tools/benchmarks/selfsup_step.py moco ema --batch 16

Peers: onedl-mmpretrain for MoCo, MoCo v3, SwAV and BEiT, from its own configs; lightly for DINO, from its
    building blocks as its examples
put them together, with timm's ViT. Both sides have the same architecture, images, threads and precision
(float32), and otherwise run as each ships. MoBY, Deep InfoMax and the pretext tasks have no peer in either
package. Rounds are interleaved, the table gives medians of one run.
"""

import argparse
import contextlib
import copy
import importlib.metadata
import os
import statistics
import sys
import time
from pathlib import Path

from timing import processor

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

# our config, mmpretrain's, images a step, sides of the views
METHODS = {
    'moco': (
        'moco/mocov2_resnet50_8xb32-coslr-200e_in1k.py',
        'mocov2/mocov2_resnet50_8xb32-coslr-200e_in1k.py',
        8,
        [224] * 2,
    ),
    'mocov3': (
        'mocov3/mocov3_vit-small-p16_16xb256-amp-coslr-300e_in1k.py',
        'mocov3/mocov3_vit-small-p16_16xb256-amp-coslr-300e_in1k.py',
        8,
        [224] * 2,
    ),
    'mocov3-resnet50': (
        'mocov3/mocov3_resnet50_8xb512-amp-coslr-100e_in1k.py',
        'mocov3/mocov3_resnet50_8xb512-amp-coslr-100e_in1k.py',
        4,
        [224] * 2,
    ),
    'swav': (
        'swav/swav_resnet50_8xb32-mcrop-coslr-200e_in1k-224px-96px.py',
        'swav/swav_resnet50_8xb32-mcrop-coslr-200e_in1k-224px-96px.py',
        4,
        [224] * 2 + [96] * 6,
    ),
    'beit': (
        'beit/beit_vit-base-p16_8xb256-amp-coslr-300e_in1k.py',
        'beit/beit_beit-base-p16_8xb256-amp-coslr-300e_in1k.py',
        4,
        [224, 112],
    ),
    'dino': ('dino/dino_vit-small-p16_8xb64-amp-coslr-100e_in1k.py', None, 2, [224] * 2 + [96] * 8),
}


def plain(optim: dict) -> dict:
    """The optimizer wrapper of a config in float32."""
    optim = {key: value for key, value in optim.items() if key not in ('loss_scale', 'dtype')}
    return {**optim, 'type': optim['type'].replace('Amp', '')}


def without(node, *names: str):
    """A config without some keys, at any depth."""
    if isinstance(node, dict):
        return {key: without(value, *names) for key, value in node.items() if key not in names}
    return [without(item, *names) for item in node] if isinstance(node, list) else node


def from_config(cfg, host: bool):
    """(model, optimizer wrapper) of a config."""
    from mmengine.model import revert_sync_batchnorm
    from mmengine.optim import build_optim_wrapper
    from mmengine.registry import MODELS

    model = {'data_preprocessor': cfg.data_preprocessor.to_dict(), **cfg.model.to_dict()}
    if host:
        model = without(model, 'init_cfg')  # its tokenizer would be fetched from a hub
    elif 'tokenizer' in model:
        model['tokenizer']['checkpoint'] = 'random'
    model = revert_sync_batchnorm(MODELS.build(model))
    model.train()
    return model, build_optim_wrapper(model, plain(cfg.optim_wrapper.to_dict()))


class Configured:
    """A side that is an mmpretrain algorithm, of mmpretrain or ours, driven by ``train_step``."""

    def __init__(self, path, views, host):
        from mmengine.config import Config

        from mmssl.ops.fast.linear import enabled

        self.products = contextlib.nullcontext if host else enabled  # the peer runs on stock torch
        self.model, self.optim = from_config(Config.fromfile(path), host)
        for group in self.optim.optimizer.param_groups:
            group['lr'] = 1e-4
        if hasattr(self.model, 'set_schedule'):
            self.model.set_schedule(1000, 100000)
        self.data = {'inputs': views, 'data_samples': samples(self.model, views[0], host)}

    def step(self):
        """One step."""
        with self.products():
            self.model.train_step(copy.copy(self.data), self.optim)


def samples(model, images, host):
    """What BEiT wants beside the images: a mask of 75 of 196 patches."""
    import torch
    from mmpretrain.structures import DataSample

    if 'BEiT' not in type(model).__name__:
        return None
    mask = torch.zeros(14, 14, dtype=torch.bool)
    mask.view(-1)[torch.randperm(196, generator=torch.Generator().manual_seed(0))[:75]] = True
    made = [DataSample() for _ in images]
    for sample in made:
        sample.set_field(mask.long() if host else mask, 'mask')
    return made


class LightlyDINO:
    """lightly's DINO as its example has it: student, teacher, heads, loss, cancelled last layer, momentum update."""

    def __init__(self, views):
        import timm
        import torch
        from lightly.loss import DINOLoss
        from lightly.models.modules import DINOProjectionHead
        from lightly.models.utils import deactivate_requires_grad

        self.torch = torch
        backbone = timm.create_model(
            'vit_small_patch16_224', num_classes=0, dynamic_img_size=True, drop_path_rate=0.1
        )
        self.student_backbone, self.student_head = (
            backbone,
            DINOProjectionHead(384, 2048, 256, 65536, freeze_last_layer=1),
        )
        self.teacher_backbone, self.teacher_head = (
            copy.deepcopy(backbone),
            DINOProjectionHead(384, 2048, 256, 65536),
        )
        deactivate_requires_grad(self.teacher_backbone)
        deactivate_requires_grad(self.teacher_head)
        self.criterion = DINOLoss(output_dim=65536, warmup_teacher_temp_epochs=30)
        self.parameters = [*self.student_backbone.parameters(), *self.student_head.parameters()]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-4)
        mean, std = (
            torch.tensor(v).view(1, 3, 1, 1) for v in ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
        )
        self.views = [(view.float() - mean) / std for view in views]

    def step(self):
        """One step."""
        from lightly.models.utils import update_momentum

        update_momentum(self.student_backbone, self.teacher_backbone, m=0.996)
        update_momentum(self.student_head, self.teacher_head, m=0.996)
        with self.torch.no_grad():
            teacher = [self.teacher_head(self.teacher_backbone(view)) for view in self.views[:2]]
        student = [self.student_head(self.student_backbone(view)) for view in self.views]
        loss = self.criterion(teacher, student, epoch=1)
        loss.backward()
        self.student_head.cancel_last_layer_gradients(current_epoch=1)
        self.torch.nn.utils.clip_grad_norm_(self.parameters, 3.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


def sides(name: str, batch: int | None):
    """(label, make, label, make, images) of ours and the peer."""
    import mmpretrain
    import torch

    ours, host, images, sizes = METHODS[name]
    images = batch or images
    generator = torch.Generator().manual_seed(1)
    views = [
        torch.randint(0, 256, (images, 3, side, side), generator=generator, dtype=torch.uint8)
        for side in sizes
    ]
    here = Configured(ROOT / 'configs' / ours, views, False)
    if host is None:
        return here, LightlyDINO(views), 'lightly', images
    root = Path(mmpretrain.__file__).parent / '.mim/configs'
    return here, Configured(root / host, views, True), 'onedl-mmpretrain', images


def momentum_update():
    """(ours, mmengine's) momentum update of a ResNet-50."""
    from mmengine.model import ExponentialMovingAverage
    from mmpretrain.models import ResNet

    from mmssl.layers.momentum import MomentumEncoder

    encoder = ResNet(50)
    ours, host = MomentumEncoder(encoder, 0.99), ExponentialMovingAverage(encoder, 0.01)
    host.update_parameters(encoder)  # its first update is a copy

    class Update:
        def __init__(self, step):
            self.step = step

    return Update(lambda: ours.update(encoder)), Update(lambda: host.update_parameters(encoder))


def compare(ours, peer, rounds: int, warmup: int) -> tuple[float, float]:
    """Median seconds of a step of each, rounds interleaved."""
    seconds = ([], [])
    for number in range(warmup + rounds):
        for index in (0, 1) if number % 2 else (1, 0):
            start = time.perf_counter()
            (ours, peer)[index].step()
            if number >= warmup:
                seconds[index].append(time.perf_counter() - start)
    return statistics.median(seconds[0]), statistics.median(seconds[1])


def main() -> None:
    """Run the comparisons, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('methods', nargs='*', choices=[*METHODS, 'ema', []], help='all by default')
    parser.add_argument('--batch', type=int, help='images a step; each method has its own')
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--warmup', type=int, default=2)
    parser.add_argument('--threads', type=int, default=os.cpu_count())
    parser.add_argument('--out', default=str(ROOT / 'docs/benchmarks/selfsup_step.md'))
    args = parser.parse_args()
    import torch
    from mmengine.logging import MessageHub, MMLogger
    from mmengine.registry import init_default_scope

    MMLogger.get_instance('benchmark', log_level='ERROR')
    MessageHub.get_instance('benchmark').update_info(
        'max_iters', 100000
    )  # mmpretrain's cosine momentum looks there
    torch.set_num_threads(args.threads)
    init_default_scope('mmpretrain')
    import mmpretrain.models  # noqa: F401

    version = importlib.metadata.version
    lines = ['| method | peer | images | ours, s | peer, s | ratio |', '|---|---|---|---|---|---|']
    for name in args.methods or [*METHODS, 'ema']:
        torch.manual_seed(0)
        if name == 'ema':
            ours, peer = momentum_update()
            mine, theirs = compare(ours, peer, 5 * args.rounds, args.warmup)
            lines.append(
                f'| momentum update of ResNet-50 | onedl-mmengine {version("onedl-mmengine")} | | {mine:.4f} | {theirs:.4f} | '
                f'{mine / theirs:.3f} |'
            )
        else:
            ours, peer, label, images = sides(name, args.batch)
            mine, theirs = compare(ours, peer, args.rounds, args.warmup)
            lines.append(
                f'| {name} | {label} {version(label)} | {images} | {mine:.3f} | {theirs:.3f} | {mine / theirs:.3f} |'
            )
        print(lines[-1], flush=True)
        del ours, peer
    head = [
        '# A training step of the self-supervised methods',
        '',
        f'`python tools/benchmarks/selfsup_step.py {" ".join(sys.argv[1:])}`'.replace(' `', '`'),
        '',
        f'{time.strftime("%Y-%m-%d")}, {processor()}, {args.threads} threads, float32, {args.rounds} interleaved rounds, medians; '
        f'torch {torch.__version__}, mmssl {__import__("mmssl").__version__}.',
        '',
    ]
    text = '\n'.join(head + lines) + '\n'
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    Path(args.out).write_text(text)
    print(f'written to {args.out}')


if __name__ == '__main__':
    main()
