"""Time and memory of selections, duplicates and search over a file of features.

    python tools/benchmarks/features.py
    python tools/benchmarks/features.py --rows 1000000 --only read search 'select 100 diverse'

The features are synthetic: 100 clusters of directions. Each operation runs once in a process of its own, for
a quarter of the rows and for all of them, so that the growth of both can be seen. Time is without the reading
of the file, which has a row of its own; memory is the peak of the process, above that of a process that has
only imported the libraries. Duplicates are the candidates, without the decoding of images.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from timing import ROOT, Results, parser_of, peak_resident, report, table, use_threads

sys.path.insert(0, str(ROOT))
NUMBER = 100


def write(path: Path, rows: int, size: int) -> None:
    """Write synthetic features, a piece at a time."""
    from mmssl.evaluation.feature_files import write_features

    generator = np.random.default_rng(0)
    centers = generator.normal(size=(100, size)).astype(np.float32)

    def parts():
        for start in range(0, rows, 10_000):
            count = min(10_000, rows - start)
            noise = generator.normal(size=(count, size), scale=1.2).astype(np.float32)
            features = centers[generator.integers(100, size=count)] + noise
            yield [f'/images/{start + index:08d}.jpg' for index in range(count)], features

    write_features(path, parts(), rows, (size,), {})


def operations() -> dict[str, Callable]:
    """Return name -> function of the features."""
    from mmssl.evaluation.duplicates import candidate_pairs
    from mmssl.evaluation.feature_files import normalized
    from mmssl.evaluation.neighbours import nearest_rows
    from mmssl.evaluation.selection import select_diverse, select_outliers, select_typical

    return {
        'import': lambda features: None,
        'read': lambda features: None,
        'search': lambda features: nearest_rows(features, normalized(features[:1]), 10),
        f'select {NUMBER} diverse': lambda features: select_diverse(features, NUMBER),
        f'select {NUMBER} typical': lambda features: select_typical(features, NUMBER),
        f'select {NUMBER} outliers': lambda features: select_outliers(features, NUMBER),
        'duplicates': lambda features: sum(1 for _ in candidate_pairs(features)),
    }


def child(name: str, path: str, threads: int) -> None:
    """Run one operation and print its seconds and its peak memory in MiB."""
    use_threads(threads)
    import pyarrow.parquet  # noqa: F401

    from mmssl.evaluation.feature_files import read_features

    call = operations()[name]
    start = time.perf_counter()
    features = read_features(path).features if name != 'import' else None
    if name != 'read':
        start = time.perf_counter()
        call(features)
    print(time.perf_counter() - start, peak_resident())


def main() -> None:
    """Measure and report."""
    parser = parser_of(__doc__, 'features', rounds=1, threads=2)
    parser.add_argument('--rows', type=int, default=20_000, help='images (default: %(default)s)')
    parser.add_argument('--size', type=int, default=384, help='numbers of a feature (default: %(default)s)')
    parser.add_argument(
        '--only', nargs='+', choices=[*operations()], help='operations to measure (default: all)'
    )
    parser.add_argument('--child', nargs=3, help='operation, file and threads of a child process')
    args = parser.parse_args()
    if args.child:
        child(args.child[0], args.child[1], int(args.child[2]))
        return
    sizes = [args.rows // 4, args.rows]
    names = args.only or [name for name in operations() if name != 'import']
    results: Results = {name: {} for name in names}
    with tempfile.TemporaryDirectory() as folder:
        for rows in sizes:
            path = Path(folder) / f'{rows}.parquet'
            write(path, rows, args.size)
            _, base = measured('import', path, args.threads)
            for name, result in results.items():
                seconds, peak = measured(name, path, args.threads)
                result[f'{rows:,} rows, s'] = seconds
                result[f'{rows:,} rows, MiB'] = peak - base
            path.unlink()
    columns = list(results[names[0]])
    rows_of_table: list[list[object]] = [
        [
            name,
            *(f'{value:.2f}' if column.endswith('s') else f'{value:.0f}' for column, value in result.items()),
        ]
        for name, result in results.items()
    ]
    lines = table(['operation', *columns], rows_of_table)
    lines += [f'The features of {args.rows:,} rows are {args.rows * args.size * 4 / 2**20:.0f} MiB.']
    settings = f'{args.size} numbers a feature, one run'
    report(args, 'Choosing by features', lines, results, settings, ('numpy', 'pyarrow', 'faiss-cpu'))


def measured(name: str, path: Path, threads: int) -> tuple[float, float]:
    """Return seconds and peak MiB of an operation in a process of its own."""
    command = [sys.executable, sys.argv[0], '--child', name, str(path), str(threads)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seconds, peak = map(float, output.split()[-2:])
    return seconds, peak


if __name__ == '__main__':
    main()
