"""Cases for the fast forms of the metrics."""

import numpy as np
import torch
from fast_case import Case


def maps(pixels, num_classes, ignore_index=255, strided=False):
    def inputs(dtype):
        rng = np.random.default_rng(0)
        values = [*range(num_classes), ignore_index]
        pred, label = (
            rng.choice(values, pixels * 2).astype(str(dtype).removeprefix('torch.')) for _ in range(2)
        )
        if ignore_index >= num_classes or ignore_index < 0:  # no class, so only predicted where it is ignored
            pred[label != ignore_index] = label[label != ignore_index][::-1]
        step = 2 if strided else 1
        return pred[: pixels * step : step], label[: pixels * step : step], num_classes, ignore_index

    return inputs


INTEGERS = torch.uint8, torch.int16, torch.int64
COUNTS = [
    *(Case(f'{pixels}-pixels', maps(pixels, 7), dtypes=INTEGERS) for pixels in (1, 3, 4, 5, 2001, 2**19 + 2)),
    Case('one-class', maps(2001, 1), dtypes=INTEGERS),
    Case('all-bytes', maps(2001, 256, 7), dtypes=(torch.uint8, torch.int64)),
    Case('ignored-class', maps(2001, 19, 3), dtypes=INTEGERS),
    Case('strided', maps(2001, 19, strided=True), dtypes=INTEGERS),
    Case('no-pixel', maps(0, 7), dtypes=INTEGERS, declined=True),
    Case('many-classes', maps(2001, 300, 65535), dtypes=(torch.int32,), declined=True),
    Case('negative-ignored-value', maps(2001, 7, -1), dtypes=(torch.int16,), declined=True),
]

CASES = {'mmssl.evaluation.fast_confusion:count_pairs': COUNTS}
