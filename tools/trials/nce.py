"""NCE, InfoNCE and negative sampling by the number of negatives, where the density ratio is known.

    OMP_NUM_THREADS=1 python tools/trials/nce.py --output docs/results/nce.md --picture docs/images/nce.png

Pairs (x, y) of correlated Gaussians: ln p(y|x) / p(y), the pointwise mutual information, is a quadratic
function, and so is the model f(x, y). Negatives are y of other pairs. Each loss is minimised for 1,500 steps
of Adam on 128 new pairs with k negatives each, and evaluated on 8,192 others, with three seeds.
"""

import argparse
import math
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmssl.losses import NCELoss

DIMS, CORRELATION = 4, 0.9
NEGATIVES = (1, 4, 16, 64)
STEPS, BATCH, TEST = 1500, 128, 1 << 13
LOSSES = ('NCE', 'InfoNCE', 'negative sampling')

NOTES = """\
- The estimate of InfoNCE, ln(k + 1) minus the loss, is a lower bound and cannot exceed ln(k + 1). The
  estimates of the others, the mean score of pairs, have no such limit, and are no bounds.
- NCE ([Gutmann and Hyvärinen, 2010](https://proceedings.mlr.press/v9/gutmann10a.html)) is logistic regression
  with ln k taken from the score: its scores are ln p(y|x) / p(y). Negative sampling leaves ln k out: its
  scores are lower by ln k, which is added here.
- InfoNCE determines scores up to a function of x only, which is fitted before the error is measured.
- The error is the root mean square difference from ln p(y|x) / p(y) over pairs, in nats.

```bash
OMP_NUM_THREADS=1 python tools/trials/nce.py --output docs/results/nce.md --picture docs/images/nce.png
```"""


class Quadratic(nn.Module):
    """f(x, y), a quadratic function of both."""

    def __init__(self):
        super().__init__()
        self.of_x = nn.Parameter(torch.zeros(DIMS, DIMS))
        self.of_y = nn.Parameter(torch.zeros(DIMS, DIMS))
        self.of_both = nn.Parameter(torch.zeros(DIMS, DIMS))
        self.constant = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Compute (B, M) for x (B, D) and y (B, M, D)."""
        own = ((x @ self.of_x) * x).sum(-1)[:, None] + ((y @ self.of_y) * y).sum(-1)
        return own + (y * (x @ self.of_both)[:, None]).sum(-1) + self.constant


def sample(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw pairs, (B, D) each."""
    x, noise = torch.randn(2, count, DIMS, generator=generator)
    return x, CORRELATION * x + math.sqrt(1 - CORRELATION**2) * noise


def exact_pmi(x: Tensor, y: Tensor) -> Tensor:
    """Return ln p(y|x) / p(y) of pairs."""
    variance = 1 - CORRELATION**2
    log_conditional = -((y - CORRELATION * x) ** 2).sum(-1) / (2 * variance) - DIMS / 2 * math.log(variance)
    return log_conditional + (y**2).sum(-1) / 2


def loss_of(name: str, positive: Tensor, negative: Tensor) -> Tensor:
    """Compute a loss of scores (B,) of pairs and (B, k) of negatives."""
    if name == 'NCE':
        return NCELoss()(positive, torch.zeros_like(positive), negative, torch.zeros_like(negative))
    if name == 'InfoNCE':
        return (torch.cat([positive[:, None], negative], 1).logsumexp(1) - positive).mean()
    return -(F.logsigmoid(positive) + F.logsigmoid(-negative).sum(1)).mean()


def train(name: str, k: int, seed: int) -> dict[str, float]:
    """Minimise a loss; return the estimate of the mutual information, and the error of the scores."""
    generator = torch.Generator().manual_seed(seed)
    model = Quadratic()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        x, y = sample(BATCH, generator)
        others = sample(BATCH * k, generator)[1].view(BATCH, k, DIMS)
        scores = model(x, torch.cat([y[:, None], others], 1))
        optimizer.zero_grad()
        loss_of(name, scores[:, 0], scores[:, 1:]).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        x, y = sample(TEST, generator)
        positive, truth = model(x, y[:, None])[:, 0], exact_pmi(x, y)
        if name == 'negative sampling':  # whose optimum is the ratio divided by k
            positive = positive + math.log(k)
        if name == 'InfoNCE':
            others = sample(TEST * k, generator)[1].view(TEST, k, DIMS)
            loss = loss_of(name, positive, model(x, others))
            estimate = math.log(k + 1) - float(loss)
            # scores are the ratio up to a function of x
            residual = (positive - truth).double()
            rows, columns = torch.triu_indices(DIMS, DIMS)
            basis = torch.cat([x[:, rows] * x[:, columns], torch.ones(TEST, 1)], 1).double()
            residual = residual - basis @ torch.linalg.lstsq(basis, residual[:, None]).solution[:, 0]
        else:
            estimate, residual = float(positive.mean()), positive - truth
    return dict(estimate=estimate, error=float(residual.square().mean().sqrt()))


def page(rows: dict, exact: float, seconds: float) -> str:
    """Return the page."""
    lines = [
        '# NCE, InfoNCE and negative sampling by the number of negatives',
        '',
        f'Pairs of {DIMS}-dimensional Gaussians with correlation {CORRELATION}, whose mutual information is '
        f'{exact:.2f} nats, and',
        f'a model that contains the exact density ratio; {STEPS:,} steps of {BATCH} pairs with k negatives. '
        'Mean and standard deviation',
        f'over three seeds; one CPU core, {seconds:.0f} s for all.',
        '',
        '![estimates by the number of negatives](../images/nce.png)',
        '',
        '| k | ln(k + 1) | ' + ' | '.join(f'{name}: estimate | error of scores' for name in LOSSES) + ' |',
        '|' + '---|' * (2 + 2 * len(LOSSES)),
    ]
    for k in NEGATIVES:
        cells = [str(k), f'{math.log(k + 1):.2f}']
        for name in LOSSES:
            for key in ('estimate', 'error'):
                values = [row[key] for row in rows[name, k]]
                cells.append(f'{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}')
        lines.append(f'| {" | ".join(cells)} |')
    lines += ['', NOTES]
    return '\n'.join(lines) + '\n'


def draw(rows: dict, exact: float, path: Path) -> None:
    """Draw the estimates."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.6))
    for name in LOSSES:
        means = [statistics.mean(row['estimate'] for row in rows[name, k]) for k in NEGATIVES]
        axes.plot(NEGATIVES, means, marker='o', label=name)
    axes.plot(NEGATIVES, [math.log(k + 1) for k in NEGATIVES], 'k:', label='ln(k + 1)')
    axes.axhline(exact, color='0.5', linestyle='--', label='mutual information')
    axes.set(xscale='log', xlabel='negatives k', ylabel='estimate in nats', ylim=(0, 1.7 * exact))
    axes.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Run all losses and numbers of negatives."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').partition('\n')[0])
    parser.add_argument('--output', type=Path, required=True)
    parser.add_argument('--picture', type=Path, required=True)
    args = parser.parse_args()
    exact = -DIMS / 2 * math.log(1 - CORRELATION**2)
    start = time.monotonic()
    rows = {(name, k): [train(name, k, seed) for seed in range(3)] for k in NEGATIVES for name in LOSSES}
    args.output.write_text(page(rows, exact, time.monotonic() - start), encoding='utf-8')
    draw(rows, exact, args.picture)


if __name__ == '__main__':
    main()
