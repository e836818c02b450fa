"""Time and memory of a training step of DINOv2 on a CPU, against a loop of lightly's modules.

    python tools/benchmarks/dinov2_step.py --threads 1

The network, views, batch and losses are those of the mini config, with centring by a moving average, which
both have; timm's ViT is the peer's network. A step is masks, forward, backward, clipping, AdamW and the
moving average of the teacher, in float32. Both start with the same weights, and their losses on the same
masked patches are printed.
"""

import argparse
import copy
import random
import statistics
import sys
from pathlib import Path

from selfsup_step import ROOT, ConfiguredMethod
from timing import (
    Results,
    interleaved,
    measured_in_child,
    parser_of,
    peak_resident,
    report,
    seconds_of,
    table,
    use_threads,
)

CONFIG = ROOT / 'configs/dinov2/dinov2_vit-mini-p8_1xb64-amp-coslr-12e_tiny-imagenet.py'
SIZES = [48, 48, 24, 24, 24, 24]
GRID = (6, 6)


def views_of(batch: int) -> list:
    """Return the views of a batch, (B, 3, H, W) uint8."""
    import torch

    generator = torch.Generator().manual_seed(1)
    return [
        torch.randint(0, 256, (batch, 3, size, size), generator=generator, dtype=torch.uint8)
        for size in SIZES
    ]


class Ours(ConfiguredMethod):
    """DINOv2 of the config.

    Args:
        batch: Images per step.
    """

    def __init__(self, batch: int):
        super().__init__(CONFIG, views_of(batch), is_peer=False)
        self.model.attach(self.optim.optimizer)
        self.model.centering = 'center'

    def first_loss(self, masked) -> float:
        """Return the loss on given masked patches; the centres are moved back."""
        import torch

        data = self.model.data_preprocessor(copy.copy(self.data), True)
        with torch.no_grad():
            losses = self.model.loss(data['inputs'], masked=masked)
        self.model.dino_loss.center.zero_()
        self.model.patch_center.zero_()
        return float(sum(losses.values()))


class Lightly:
    """DINOv2 of lightly's modules, combined as its example does.

    Args:
        batch: Images per step.
    """

    def __init__(self, batch: int):
        import torch
        from lightly.loss import DINOLoss, IBOTPatchLoss, KoLeoLoss
        from lightly.models.modules import DINOProjectionHead, MaskedVisionTransformerTIMM
        from lightly.models.utils import deactivate_requires_grad
        from timm.models.vision_transformer import VisionTransformer

        vit = VisionTransformer(
            img_size=48,
            patch_size=8,
            embed_dim=96,
            depth=4,
            num_heads=4,
            num_classes=0,
            dynamic_img_size=True,
        )
        self.backbone = MaskedVisionTransformerTIMM(vit, antialias=False)
        sizes = (96, 512, 128, 1024)
        self.head, self.teacher_head = (DINOProjectionHead(*sizes, batch_norm=True) for _ in range(2))
        self.teacher_backbone = copy.deepcopy(self.backbone)
        deactivate_requires_grad(self.teacher_backbone)
        deactivate_requires_grad(self.teacher_head)
        self.dino = DINOLoss(1024, teacher_temp=0.04, warmup_teacher_temp_epochs=0)
        self.ibot = IBOTPatchLoss(1024, teacher_temp=0.04)
        self.koleo = KoLeoLoss()
        self.parameters = [
            parameter
            for part in (self.backbone, self.head)
            for parameter in part.parameters()
            if parameter.requires_grad
        ]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-4)
        mean = torch.tensor([123.675, 116.28, 103.53]).view(1, 3, 1, 1)
        std = torch.tensor([58.395, 57.12, 57.375]).view(1, 3, 1, 1)
        views = [(view.flip(1).float() - mean) / std for view in views_of(batch)]  # images are BGR
        self.global_views, self.local_views = torch.cat(views[:2]), torch.cat(views[2:])

    def load(self, model) -> None:
        """Take the weights of our model, student and teacher alike."""
        from mmssl.convert import to_official

        weights = dict(model.backbone.state_dict())
        mask_token = weights.pop('mask_token')
        for backbone in (self.backbone, self.teacher_backbone):
            backbone.vit.load_state_dict(to_official('timm-vit', weights, prefix=''))
            backbone.mask_token.data.copy_(mask_token.view(1, 1, -1))
        last_layer = model.head.last_layer
        for head in (self.head, self.teacher_head):
            names = head.layers.state_dict()  # no biases before batch norm, which removes them
            head.layers.load_state_dict({name: model.head.mlp.state_dict()[name] for name in names})
            head.last_layer.weight_v.data.copy_(last_layer.parametrizations.weight.original1)
            head.last_layer.weight_g.data.copy_(last_layer.parametrizations.weight.original0)

    def loss(self, block_mask):
        """Return the sum of the losses for masks (2 * B, rows, columns)."""
        import torch

        mask = block_mask.new_zeros(len(block_mask), self.backbone.sequence_length)
        mask[:, 1:] = block_mask.flatten(1)
        with torch.no_grad():
            features = self.teacher_backbone.encode(self.global_views)
            teacher_out = self.teacher_head(features[:, 0])
            teacher_patches = self.teacher_head(features[mask])
        features = self.backbone.encode(self.global_views, mask=mask)
        cls_tokens = features[:, 0]
        local_tokens = self.backbone.encode(self.local_views)[:, 0]
        student_out = self.head(torch.cat([cls_tokens, local_tokens]))
        patches = self.head(features[mask])
        dino = self.dino(list(teacher_out.chunk(2)), list(student_out.chunk(len(SIZES))))
        koleo = sum(self.koleo(part) for part in cls_tokens.chunk(2))
        return dino + self.ibot(teacher_patches, patches, block_mask) + 0.1 * koleo

    def first_loss(self, masked) -> float:
        """Return the loss on given masked patches; the centres are moved back."""
        import torch

        with torch.no_grad():
            loss = self.loss(masked.mask(len(self.global_views), GRID[0] * GRID[1]).unflatten(1, GRID))
        self.dino.center.zero_()
        self.ibot.center.center.zero_()
        return float(loss)

    def step(self) -> None:
        """Run one training step."""
        import torch
        from lightly.models.utils import random_block_mask, update_momentum

        update_momentum(self.backbone, self.teacher_backbone, m=0.99)
        update_momentum(self.head, self.teacher_head, m=0.99)
        self.loss(random_block_mask((len(self.global_views), *GRID), min_num_masks_per_block=1)).backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 3.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


METHODS = {'ours': Ours, 'lightly': Lightly}


def print_memory(name: str, batch: int) -> None:
    """Print the peak memory in MiB of three steps, beyond what the imports need."""
    METHODS[name](2).step()  # imports what a step needs
    before = peak_resident()
    method = METHODS[name](batch)
    for _ in range(3):
        method.step()
    print(peak_resident() - before)


def main() -> None:
    """Measure, print and write."""
    parser = parser_of(__doc__, 'dinov2_step', rounds=15)
    parser.add_argument('--batch', type=int, default=64, help='images per step (default: %(default)s)')
    parser.add_argument(
        '--warmup', type=int, default=3, help='steps before the timing (default: %(default)s)'
    )
    parser.add_argument('--child', choices=list(METHODS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    import torch
    from mmengine.logging import MMLogger
    from mmengine.registry import init_default_scope

    sys.path.insert(0, str(ROOT))
    from mmssl.selfsup.dinov2 import draw_masked_patches

    MMLogger.get_instance('benchmark', log_level='ERROR')
    use_threads(args.threads)
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    if args.child:
        print_memory(args.child, args.batch)
        return
    methods = {name: kind(args.batch) for name, kind in METHODS.items()}
    methods['lightly'].load(methods['ours'].model)
    masked = draw_masked_patches(2 * args.batch, GRID, rng=random.Random(0))
    losses = {name: method.first_loss(masked) for name, method in methods.items()}
    for method in methods.values():
        for _ in range(args.warmup):
            method.step()
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for name in interleaved(list(methods), args.rounds):
        seconds[name].append(seconds_of(methods[name].step))
    options = ['--batch', args.batch, '--threads', args.threads]
    memory = {name: float('nan') if args.no_memory else measured_in_child(name, *options) for name in methods}
    pairs = [ours / peer for ours, peer in zip(seconds['ours'], seconds['lightly'], strict=True)]
    rows = [
        [
            name,
            f'{statistics.median(seconds[name]):.4f}',
            f'{min(seconds[name]):.4f}',
            f'{memory[name]:.0f}',
            f'{losses[name]:.6f}',
        ]
        for name in methods
    ]
    ratio = statistics.median(pairs)
    lines = table(['step', 'median s', 'fastest s', 'peak memory MiB', 'loss before the first step'], rows)
    lines += [f'Ours takes {ratio:.2f} of the time of lightly (median of {len(pairs)} interleaved pairs).']
    results: Results = {'DINOv2-mini against lightly': {'time, ratio': ratio}}
    settings = f'float32, batch {args.batch}, {Path(CONFIG).stem}'
    report(args, 'A training step of DINOv2', lines, results, settings, ('lightly', 'timm'))


if __name__ == '__main__':
    main()
