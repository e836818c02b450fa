"""Time of a whole training step of the self-supervised methods against the same method of a released package.

    python tools/benchmarks/selfsup_step.py                      # all methods, and the momentum update
    python tools/benchmarks/selfsup_step.py moco ema --batch 16

A step is forward, backward, optimizer and momentum encoder. Peers: onedl-mmpretrain for MoCo, MoCo v3, SwAV
and BEiT, from its own configs; lightly for DINO, from its building blocks as its examples combine them, with
timm's ViT. Both have the same architecture, images, threads and precision (float32), and otherwise run as
each ships. MoBY, Deep InfoMax and the pretext tasks have no peer in either package. A method whose peer is
not installed is left out.
"""

import contextlib
import copy
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from timing import ROOT, Results, medians, parser_of, report, table, use_threads

sys.path.insert(0, str(ROOT))

# our config, mmpretrain's, images per step, sides of the views
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
MOMENTUM_UPDATE = 'momentum update of ResNet-50'


def in_float32(optim: dict) -> dict:
    """Return the optimizer wrapper of a config without its reduced precision."""
    optim = {key: value for key, value in optim.items() if key not in ('loss_scale', 'dtype')}
    return {**optim, 'type': optim['type'].replace('Amp', '')}


def without(node, *names: str):
    """Return a config without some keys, at any depth."""
    if isinstance(node, dict):
        return {key: without(value, *names) for key, value in node.items() if key not in names}
    return [without(item, *names) for item in node] if isinstance(node, list) else node


def build(cfg, is_peer: bool):
    """Build the model and the optimizer wrapper of a config."""
    from mmengine.model import revert_sync_batchnorm
    from mmengine.optim import build_optim_wrapper
    from mmengine.registry import MODELS

    model = {'data_preprocessor': cfg.data_preprocessor.to_dict(), **cfg.model.to_dict()}
    if is_peer:
        model = without(model, 'init_cfg')  # its tokenizer would be downloaded
    elif 'tokenizer' in model:
        model['tokenizer']['checkpoint'] = 'random'
    model = revert_sync_batchnorm(MODELS.build(model))
    model.train()
    return model, build_optim_wrapper(model, in_float32(cfg.optim_wrapper.to_dict()))


class ConfiguredMethod:
    """A method of mmssl or mmpretrain, built from a config and driven by ``train_step``.

    Args:
        path: The config.
        views: (B, 3, H, W) uint8 images of each view.
        is_peer: Whether the method is mmpretrain's.
    """

    def __init__(self, path: Path, views: list, is_peer: bool):
        from mmengine.config import Config

        from mmssl.ops.fast.linear import enabled

        self.products = contextlib.nullcontext if is_peer else enabled  # the peer runs on plain torch
        self.model, self.optim = build(Config.fromfile(path), is_peer)
        for group in self.optim.optimizer.param_groups:
            group['lr'] = 1e-4
        if hasattr(self.model, 'set_schedule'):
            self.model.set_schedule(1000, 100000)
        self.data = {'inputs': views, 'data_samples': data_samples(self.model, views[0], is_peer)}

    def step(self) -> None:
        """Run one training step."""
        with self.products():
            self.model.train_step(copy.copy(self.data), self.optim)


def data_samples(model, images, is_peer: bool):
    """Return what BEiT needs beside the images, a mask of 75 of 196 patches; None for other methods."""
    import torch
    from mmpretrain.structures import DataSample

    if 'BEiT' not in type(model).__name__:
        return None
    mask = torch.zeros(14, 14, dtype=torch.bool)
    mask.view(-1)[torch.randperm(196, generator=torch.Generator().manual_seed(0))[:75]] = True
    samples = [DataSample() for _ in images]
    for sample in samples:
        sample.set_field(mask.long() if is_peer else mask, 'mask')
    return samples


class LightlyDINO:
    """DINO of lightly as its example has it, with a frozen last layer and momentum update.

    Args:
        views: (B, 3, H, W) uint8 images of each view.
    """

    def __init__(self, views: list):
        import timm
        import torch
        from lightly.loss import DINOLoss
        from lightly.models.modules import DINOProjectionHead
        from lightly.models.utils import deactivate_requires_grad

        self.torch = torch
        self.student_backbone = timm.create_model(
            'vit_small_patch16_224', num_classes=0, dynamic_img_size=True, drop_path_rate=0.1
        )
        self.student_head = DINOProjectionHead(384, 2048, 256, 65536, freeze_last_layer=1)
        self.teacher_backbone = copy.deepcopy(self.student_backbone)
        self.teacher_head = DINOProjectionHead(384, 2048, 256, 65536)
        deactivate_requires_grad(self.teacher_backbone)
        deactivate_requires_grad(self.teacher_head)
        self.criterion = DINOLoss(output_dim=65536, warmup_teacher_temp_epochs=30)
        self.parameters = [*self.student_backbone.parameters(), *self.student_head.parameters()]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-4)
        mean = torch.tensor([123.675, 116.28, 103.53]).view(1, 3, 1, 1)
        std = torch.tensor([58.395, 57.12, 57.375]).view(1, 3, 1, 1)
        self.views = [(view.float() - mean) / std for view in views]

    def step(self) -> None:
        """Run one training step."""
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


def method_steps(name: str, batch: int | None) -> tuple[str, int, dict[str, Callable]]:
    """Return the peer's package, the images per step, and the steps 'ours' and 'peer' of a method."""
    import mmpretrain
    import torch

    our_config, peer_config, default_batch, sizes = METHODS[name]
    images = batch or default_batch
    generator = torch.Generator().manual_seed(1)
    views = [
        torch.randint(0, 256, (images, 3, size, size), generator=generator, dtype=torch.uint8)
        for size in sizes
    ]
    if peer_config is None:
        package, peer = 'lightly', LightlyDINO(views)
    else:
        path = Path(mmpretrain.__file__).parent / '.mim/configs' / peer_config
        package, peer = 'onedl-mmpretrain', ConfiguredMethod(path, views, is_peer=True)
    ours = ConfiguredMethod(ROOT / 'configs' / our_config, views, is_peer=False)
    return package, images, {'ours': ours.step, 'peer': peer.step}


def momentum_update_steps() -> dict[str, Callable]:
    """Return our and mmengine's momentum update of a ResNet-50."""
    from mmengine.model import ExponentialMovingAverage
    from mmpretrain.models import ResNet

    from mmssl.layers.momentum import MomentumEncoder

    encoder = ResNet(50)
    ours, peer = MomentumEncoder(encoder, 0.99), ExponentialMovingAverage(encoder, 0.01)
    peer.update_parameters(encoder)  # its first update is a copy
    return {'ours': lambda: ours.update(encoder), 'peer': lambda: peer.update_parameters(encoder)}


def main() -> None:
    """Measure, print and write."""
    parser = parser_of(__doc__, 'selfsup_step', rounds=7, threads=None)
    parser.add_argument('methods', nargs='*', choices=[*METHODS, 'ema', []], help='default: all')
    parser.add_argument('--batch', type=int, help='images per step (default: that of each method)')
    parser.add_argument('--warmup', type=int, default=2, help='steps before the timing (default: 2)')
    args = parser.parse_args()
    import torch
    from mmengine.logging import MessageHub, MMLogger
    from mmengine.registry import init_default_scope

    MMLogger.get_instance('benchmark', log_level='ERROR')
    # mmpretrain's cosine momentum reads the number of iterations there
    MessageHub.get_instance('benchmark').update_info('max_iters', 100000)
    use_threads(args.threads)
    init_default_scope('mmpretrain')
    import mmpretrain.models  # noqa: F401

    rows, results, missing = [], Results(), []
    for name in args.methods or [*METHODS, 'ema']:
        torch.manual_seed(0)
        try:
            if name == 'ema':
                row, rounds, package, images = MOMENTUM_UPDATE, 5 * args.rounds, 'onedl-mmengine', ''
                steps = momentum_update_steps()
            else:
                row, rounds = name, args.rounds
                package, images, steps = method_steps(name, args.batch)
        except ImportError as error:
            missing.append(f'{name} is left out: {error.name} is not installed.')
            continue
        seconds = medians(steps, rounds, args.warmup)
        faster = seconds['peer'] / seconds['ours']
        results[row] = {'times faster than the peer': faster}
        times = [f'{seconds[key]:.4g}' for key in ('ours', 'peer')]
        rows.append([row, f'{package} {version(package)}', images, *times, f'{faster:.2f}'])
        print(rows[-1], flush=True)
        del steps
    lines = table(['method', 'peer', 'images', 'ours, s', 'peer, s', 'times faster'], rows) + missing
    settings = f'float32, {args.rounds} interleaved rounds, medians'
    report(args, 'A training step of the self-supervised methods', lines, results, settings)


if __name__ == '__main__':
    main()
