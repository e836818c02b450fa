"""k-NN accuracy of Tiny ImageNet from few labels: images chosen by ``mmssl select`` against random ones.

    python tools/trials/select_images.py tiny_imagenet_20c.zip --model NAME CONFIG CHECKPOINT

Each seed draws four fifths of the training images as the pool, so that the ways of choosing, which are
deterministic, vary too. All ways choose from the same pool; all validation images are classified by the
labels of the chosen ones.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)] * (str(ROOT) not in sys.path)
WAYS = ('random', 'typical', 'diverse', 'outliers')
POOL_FRACTION = 0.8
# Student's t for a 95 % interval of the mean, by the number of seeds
T_95 = {2: 12.71, 3: 4.30, 5: 2.78, 10: 2.26, 20: 2.09}


def features_of(data: str, split: str, model: list[str], folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return features (N, D) and class indices (N,) of a part of the images; computed once."""
    from mmssl.apis import embed
    from mmssl.evaluation.feature_files import read_features

    name, config, checkpoint = model
    out = folder / f'{name}-{split}.npy'
    embed(config, checkpoint, f'{data}/{split}', out, pool='avg', image_size=64, workers=0, device='cpu')
    content = read_features(out)
    classes = [Path(path).parent.name for path in content.paths]
    if set(classes) == {'images'}:  # as in the original archive
        classes = [Path(path).parent.parent.name for path in content.paths]
    names = sorted(set(classes))
    return np.array(content.features), np.array([names.index(each) for each in classes])


def choose(how: str, features: np.ndarray, number: int, seed: int) -> list[int]:
    """Return the rows that a way chooses."""
    from mmssl.evaluation.selection import select_diverse, select_outliers, select_typical

    if how == 'random':
        return np.random.default_rng(1000 + seed).permutation(len(features))[:number].tolist()
    return dict(typical=select_typical, diverse=select_diverse, outliers=select_outliers)[how](
        features, number
    )


def accuracies(
    train: tuple[np.ndarray, np.ndarray], val: tuple[np.ndarray, np.ndarray], number: int, args
) -> dict[str, np.ndarray]:
    """Return the accuracy of each way and seed in percent, {way: (seeds,)}."""
    import torch

    from mmssl.evaluation.knn import knn_classify

    values: dict[str, list[float]] = {how: [] for how in args.ways}
    for seed in range(args.seeds):
        size = round(POOL_FRACTION * len(train[1]))
        pool = np.sort(np.random.default_rng(seed).permutation(len(train[1]))[:size])
        features, labels = train[0][pool], torch.from_numpy(train[1][pool])
        for how in args.ways:
            rows = choose(how, features, number, seed)
            predicted = knn_classify(
                torch.from_numpy(features[rows]), labels[rows], torch.from_numpy(val[0]), k=args.k
            )
            values[how].append(100 * float((predicted.numpy() == val[1]).mean()))
    return {how: np.array(each) for how, each in values.items()}


def interval(values: np.ndarray) -> str:
    """Return mean and half the 95 % interval of the mean."""
    half = T_95[len(values)] * values.std(ddof=1) / np.sqrt(len(values))
    return f'{values.mean():.1f} ± {half:.1f}'


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('data', help='folder or zip with train/<class> and val/<class>')
    parser.add_argument(
        '--model', nargs=3, action='append', required=True, metavar=('NAME', 'CONFIG', 'CHECKPOINT')
    )
    parser.add_argument('--labels', type=int, nargs='+', default=[20, 100, 400], help='images to label')
    parser.add_argument('--ways', nargs='+', default=list(WAYS), choices=WAYS)
    parser.add_argument('--seeds', type=int, default=10, choices=list(T_95))
    parser.add_argument('--k', type=int, default=5, help='neighbours that vote (default: %(default)s)')
    parser.add_argument('--work-dir', default='work_dirs/select_images', help='folder of the features')
    parser.add_argument('--output', help='Markdown file to write')
    args = parser.parse_args()
    start, rows = time.time(), []
    folder = Path(args.work_dir)
    folder.mkdir(parents=True, exist_ok=True)
    saved = folder / 'results.json'
    results = json.loads(saved.read_text()) if saved.is_file() else {}
    data = str(Path(args.data).resolve())
    for model in args.model:
        train, val = (features_of(data, split, model, folder) for split in ('train', 'val'))
        for number in args.labels:
            key = f'{model[0]}, {number} labels, {args.seeds} seeds, k={args.k}'
            if key not in results:
                measured = accuracies(train, val, number, args)
                results[key] = {how: each.tolist() for how, each in measured.items()}
                saved.write_text(json.dumps(results))
            values = {how: np.array(results[key][how]) for how in args.ways}
            gains = [interval(values[how] - values['random']) for how in args.ways if how != 'random']
            rows.append([model[0], number, *(interval(values[how]) for how in args.ways), *gains])
            print(rows[-1], f'{time.time() - start:.0f} s', flush=True)
    gains = [f'{how} minus random' for how in args.ways if how != 'random']
    header = ['features', 'labels', *args.ways, *gains]
    table = [header, ['---'] * len(header), *rows]
    lines = ['# Chosen and random images', '', *(__doc__.split('\n')[2:-1]), '']
    lines += [
        f'Top-1 accuracy in percent, weighted {args.k}-NN, mean and 95 % interval over {args.seeds} seeds; '
        f'{len(train[1])} training images, of which {POOL_FRACTION:.0%} are the pool, {len(val[1])} '
        f'validation images, {len(set(train[1]))} classes. Differences are paired by seed.',
        '',
        *('| ' + ' | '.join(map(str, row)) + ' |' for row in table),
    ]
    print('\n'.join(lines))
    if args.output:
        Path(args.output).write_text('\n'.join(lines) + '\n', encoding='utf-8')


if __name__ == '__main__':
    main()
