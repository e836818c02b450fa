"""Metrics that keep a running sum, equal for any number of processes."""

from collections.abc import Sequence

from mmengine.dist import all_gather_object, broadcast_object_list, is_main_process
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger


class AccumulatingMetric(BaseMetric):
    """Metric that keeps a running sum and excludes samples that the distributed sampler repeats.

    mmengine's DefaultSampler gives the ranks samples in turn, and pads the last round with samples that were
    there before, at most one per rank, its last. Subclasses pass the summand of each sample, a dict of arrays
    and numbers, to :meth:`add`, and get the sum over the dataset in :meth:`compute_sum`. mmengine's
    BaseMetric keeps a result for each image instead.

    Args:
        prefix: Prefix of the names of the scores.
    """

    def __init__(self, prefix: str | None = None):
        super().__init__(prefix=prefix)
        self.reset()

    def reset(self) -> None:
        """Discard all samples."""
        self.total: dict = {}
        self.last: dict = {}
        self.num_samples = 0
        # of the first and of the last sample
        self.names: list[tuple] = [(), ()]

    def add(self, summand: dict, sample: dict | None = None) -> None:
        """Add the summand of a sample.

        Args:
            summand: Arrays and numbers.
            sample: The sample, by whose file repeated ones are recognised.
        """
        self._merge(self.total, self.last)
        self.last = summand
        name = tuple((sample or {}).get(key) for key in ('img_path', 'img_id', 'sample_idx'))
        self.names = [self.names[0] if self.num_samples else name, name]
        self.num_samples += 1

    @staticmethod
    def _merge(total: dict, summand: dict) -> None:
        for key, value in summand.items():
            total[key] = total[key] + value if key in total else value

    def evaluate(self, size: int) -> dict:
        """Compute the scores of the whole dataset.

        Args:
            size: Number of samples in the dataset.

        Returns:
            Names and values of the scores, equal on all processes.

        Raises:
            ValueError: Samples were repeated in another way than by mmengine's DefaultSampler.
        """
        parts = all_gather_object((self.num_samples, self.names, self.total, self.last))
        padded = padded_ranks([part[0] for part in parts], [part[1] for part in parts], size)
        joined: dict = {}
        for rank, (_, _, total, last) in enumerate(parts):
            self._merge(joined, total)
            if rank not in padded:
                self._merge(joined, last)
        self.reset()
        metrics = [self.compute_sum(joined) if is_main_process() else {}]
        broadcast_object_list(metrics)
        return {f'{self.prefix}/{name}' if self.prefix else name: value for name, value in metrics[0].items()}

    def compute_sum(self, total: dict) -> dict:
        """Compute the scores from the sum over all samples."""
        raise NotImplementedError

    def compute_metrics(self, results: list) -> dict:
        """Not used: results are not collected."""
        raise NotImplementedError


def padded_ranks(counts: Sequence[int], names: Sequence[Sequence[tuple]], size: int) -> range:
    """Return the ranks whose last sample is there a second time.

    Args:
        counts: Number of samples of each rank.
        names: Names of the first and the last sample of each rank.
        size: Number of samples in the dataset.

    Raises:
        ValueError: The repeated samples are not those of mmengine's DefaultSampler.
    """
    world, repeated = len(counts), sum(counts) - size
    if repeated < 0:
        MMLogger.get_current_instance().warning(
            f'{sum(counts)} of the {size} samples were evaluated; the scores are of these'
        )
    if repeated <= 0:
        return range(0)
    padded = range(world - repeated, world)
    # in the last round, ranks that have no sample left start from the first again
    in_turn = repeated < world and len(set(counts)) == 1
    if not in_turn or any(names[rank][1] != names[index % size][0] for index, rank in enumerate(padded)):
        raise ValueError(
            f'{sum(counts)} samples were evaluated of the {size} that there are, and it is not known which '
            "of them are repeated; set sampler=dict(type='DefaultSampler', shuffle=False) of val_dataloader "
            'and test_dataloader'
        )
    return padded
