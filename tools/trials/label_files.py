"""Time of a change in the labels of ``mmssl demo --data``, by the number of images that are labelled.

python tools/trials/label_files.py --images 1000 10000

fills a store with images of five masks each, and prints the median time of twenty further changes, each of
which writes the whole file and waits until it is on the disk, and the size of the file.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from mmssl.data.annotations import encode
from mmssl.demo_page.labels import FINISHED_FILE, LabelStore

SIZE = (480, 640)
OBJECTS = 5
CHANGES = 20


def ellipse(rng: np.random.Generator) -> np.ndarray:
    """Return the mask of an ellipse with a ragged outline."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    center = rng.uniform(100, 380), rng.uniform(100, 540)
    radii = rng.uniform(20, 90, 2)
    distance = ((rows - center[0]) / radii[0]) ** 2 + ((columns - center[1]) / radii[1]) ** 2
    return distance + rng.normal(0, 0.02, SIZE) < 1


def measure(images: int) -> tuple[float, int]:
    """Return the seconds of a change and the bytes of the file with a number of images."""
    rng = np.random.default_rng(0)
    records = [encode(ellipse(rng)) for _ in range(50)]
    with tempfile.TemporaryDirectory() as folder:
        store = LabelStore(folder)
        write, store._write = store._write, lambda path, finished: None  # filled without writing
        for index in range(images):
            name = f'{index:06}.jpg'
            for number in range(OBJECTS):
                store.add(name, SIZE, records[(index + number) % len(records)], 'cell')
            store.finish(name, SIZE)
        store._write = write
        seconds = []
        for index in range(CHANGES):
            start = time.perf_counter()
            store.add(f'{index:06}.jpg', SIZE, records[index], 'cell')
            seconds.append(time.perf_counter() - start)
        return statistics.median(seconds[1:]), (Path(folder) / FINISHED_FILE).stat().st_size


def main() -> None:
    """Print a row per number of images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--images', type=int, nargs='+', default=[1000, 10_000])
    for images in parser.parse_args().images:
        seconds, size = measure(images)
        print(f'{images:7,} images: {1000 * seconds:6.0f} ms a change, {size / 1e6:.1f} MB')


if __name__ == '__main__':
    main()
