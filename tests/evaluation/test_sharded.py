"""Features that two ranks extract are those of one, in the order of the images."""

import json
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mmssl import evaluation
from mmssl.engine.knn_hook import KNNHook
from mmssl.evaluation import sharded
from mmssl.evaluation.labelled import labelled_images
from mmssl.evaluation.sharded import gather_rows, shard


class Model(nn.Module):
    """Average of each quarter, and a count of the images that it has seen."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.data_preprocessor = lambda data, training: dict(inputs=data['inputs'].float() / 255)
        self.seen = 0

    def extract_feat(self, inputs):
        """Return maps (B, C, h, w)."""
        self.seen += len(inputs)
        return (self.scale * nn.functional.adaptive_avg_pool2d(inputs, 2).flatten(1)[..., None, None],)


def make_data(root, count):
    rng = np.random.default_rng(0)
    for split in ('train', 'val'):
        for label, colour in (('red', (200, 40, 40)), ('blue', (40, 40, 200))):
            (root / split / label).mkdir(parents=True)
            for index in range(count):
                pixels = np.clip(rng.normal(colour, 60, (32, 32, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / label / f'{index}.png')
    return root


def evaluate(rank, data):
    model = Model()
    hook = KNNHook(str(data), k=3, batch_size=2)
    hook._images = labelled_images(str(data), 32)
    result = hook._compute(model)
    if result is not None:
        result.pop('seconds')
    return result, model.seen, [features.tolist() for features in hook._extract(model, hook._images[0])]


def gather(rank, counts, block):
    sharded._BLOCK_BYTES = block
    rows = torch.arange(counts[rank] * 3, dtype=torch.float).reshape(-1, 3) + 100 * rank
    return gather_rows(rows if counts[rank] else torch.zeros(0, 0))


@pytest.mark.parametrize('count', [4, 5])
def test_two_ranks_share_the_images_and_give_the_result_of_one(two_ranks, tmp_path, count):
    data = make_data(tmp_path, count)
    expected, seen, features = evaluate(0, data)
    (result, first, of_both), (nothing, second, _) = two_ranks(evaluate, data)
    assert json.dumps(result) == json.dumps(expected) and nothing is None
    assert first + second == seen and abs(first - second) <= 3
    assert torch.allclose(torch.tensor(of_both[0]), torch.tensor(features[0]), rtol=0, atol=1e-6)
    assert of_both[1] == features[1]


@pytest.mark.parametrize('counts', [(3, 3), (5, 2), (0, 4), (1, 0)])
@pytest.mark.parametrize('block', [1, 1 << 26])
def test_rows_of_all_ranks_in_order(two_ranks, counts, block):
    first, _ = two_ranks(gather, counts, block)
    parts = [
        torch.arange(count * 3, dtype=torch.float).reshape(-1, 3) + 100 * rank
        for rank, count in enumerate(counts)
    ]
    assert torch.equal(first, torch.cat(parts))


def vote_slowly(rank, data):
    """When the first rank has voted, when this one leaves, and in which collectives it waits."""
    waits = []
    for name in ('barrier', 'all_reduce', 'broadcast'):
        setattr(torch.distributed, name, lambda *args, name=name, **kwargs: waits.append(name))
    voted = []

    def vote(*args):
        time.sleep(0.5)
        voted.append(time.monotonic())
        return dict(top1=0.0, top5=0.0)

    evaluation.knn_accuracy = vote
    hook = KNNHook(str(data), k=3, batch_size=2)
    hook._images = labelled_images(str(data), 32)
    hook._record = lambda runner, result: None
    hook._evaluate(SimpleNamespace(model=Model(), hooks=[]), 1, 1)
    return voted, time.monotonic(), waits


def test_the_other_ranks_wait_for_the_vote_in_no_collective(two_ranks, tmp_path):
    (voted, _, first_waits), (nothing, left, waits) = two_ranks(vote_slowly, make_data(tmp_path, 3))
    assert not nothing and left >= voted[0] and first_waits == waits == []


def test_shares_are_disjoint_and_complete(tmp_path):
    images, _ = labelled_images(str(make_data(tmp_path, 3)), 32)
    shares = [shard(images, rank, 4).indices for rank in range(4)]
    assert torch.equal(torch.cat(shares), images.indices) and [len(share) for share in shares] == [2, 2, 1, 1]


def evaluate_or_fail(rank, data, allowed):
    model = Model()
    hook = KNNHook(str(data), k=3, batch_size=2)
    hook._images = labelled_images(str(data), 32)
    for images in hook._images:
        images.folder.bad_files.allowed = lambda count: allowed
    try:
        result = hook._compute(model)
    except (RuntimeError, ValueError) as error:
        return str(error)
    return result and result['num_train']


@pytest.mark.parametrize(
    ('broken', 'allowed', 'expected'),
    [
        ('blue', 10, [4, None]),  # the share of the first rank
        ('red', 10, [4, None]),
        ('*', 20, ['none of the 8 images in', 'none of the 8 images in']),
        ('red', 1, ['rank 1: 2 of 8 images', '2 of 8 images cannot be decoded']),
    ],
)
def test_a_share_without_a_readable_image(two_ranks, tmp_path, broken, allowed, expected):
    data = make_data(tmp_path, 4)
    for file in data.glob(f'train/{broken}/*.png'):
        file.write_bytes(file.read_bytes()[:60])
    results = two_ranks(evaluate_or_fail, data, allowed)
    if allowed == 10:
        assert results == expected
    else:
        assert all(text in result for text, result in zip(expected, results, strict=True)), results
