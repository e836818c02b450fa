"""Features that several ranks extract, each of its share of the images."""

from collections.abc import Callable
from typing import TypeVar

import torch
from mmengine.dist import all_gather_object, get_rank, get_world_size
from torch import Tensor
from torch import distributed as dist

from mmssl.evaluation.labelled import LabelledImages
from mmssl.layers.distributed import host_group

Result = TypeVar('Result')
# size in bytes of the blocks in which a rank sends its rows
_BLOCK_BYTES = 1 << 26


def shard(images: LabelledImages, rank: int, world_size: int) -> LabelledImages:
    """Return the share of a rank, a contiguous part, so that the shares in order are all images.

    Args:
        images: All images.
        rank: The rank.
        world_size: Number of ranks.
    """
    return LabelledImages(images.folder, images.indices.tensor_split(world_size)[rank])


def on_all_ranks(function: Callable[[], Result]) -> Result:
    """Call a function on every rank; if it fails on one of them, all of them raise an error.

    Otherwise the others would wait in the next collective for a rank that has left.

    Raises:
        ValueError: It has failed on another rank; the message has the number of the rank and its error.
    """
    failure = None
    try:
        result = function()
    except Exception as error:  # whatever it is, the other ranks have to know
        failure = error
    text = '' if failure is None else str(failure) or type(failure).__name__
    texts = all_gather_object(text, host_group())
    if failure is not None:
        raise failure
    for rank, text in enumerate(texts):
        if text:
            raise ValueError(f'rank {rank}: {text}')
    return result


def gather_rows(rows: Tensor) -> Tensor:
    """Concatenate the rows of all ranks, in their order; every rank has to call it.

    Args:
        rows: (N, D), on the CPU; N may differ from rank to rank, and D be 0 where there are no rows.

    Returns:
        (sum of N, D) on the first rank, ``rows`` on the others.
    """
    if get_world_size() == 1:
        return rows
    first, world_size, group = get_rank() == 0, get_world_size(), host_group()
    shapes = torch.zeros(world_size, 2, dtype=torch.int64)
    dist.all_gather(list(shapes), torch.tensor(rows.shape), group)
    counts = shapes[:, 0].tolist()
    width = int(shapes[:, 1].max())
    padded = rows.new_zeros(max(counts), width)
    padded[: len(rows), : rows.shape[1]] = rows
    result = [rows.new_empty(len(padded), width) for _ in range(world_size)] if first else []
    block = max(1, _BLOCK_BYTES // max(1, width * rows.element_size()))
    for start in range(0, len(padded), block):
        received = [part[start : start + block] for part in result]
        dist.gather(padded[start : start + block], received or None, dst=0, group=group)
    if not first:
        return rows
    return torch.cat([part[:count] for part, count in zip(result, counts, strict=True)])
