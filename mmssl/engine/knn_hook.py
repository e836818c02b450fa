"""Hook that measures the k-NN accuracy of the features during training."""

import json
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING

from mmengine.dist import all_gather_object, get_rank, get_world_size, is_main_process
from mmengine.hooks import Hook
from torch import Tensor

from mmssl.engine.bare_model import bare_model, is_sharded
from mmssl.layers.distributed import host_group, wait_for_first_rank
from mmssl.registry import HOOKS

if TYPE_CHECKING:
    from mmssl.evaluation.labelled import LabelledImages

RESULTS = 'knn.json'
# passes of the linear probe over the features; the command `mmssl linear` takes more
PROBE_EPOCHS = 20


@HOOKS.register_module()
class KNNHook(Hook):
    """Evaluate pre-trained features by a k-NN vote during training.

    Each rank extracts the features of its share of the images, and the first one votes. Random states and the
    modes of all modules are left as they were, so that a run with the hook trains exactly as one without it.
    Results go to the message hub and the visualizer as ``knn/top1`` and ``knn/top5`` and are appended to
    ``<work_dir>/knn.json``.

    With ``at_start`` every result is compared with the first: a warning with the numbers follows where fewer
    images are classified correctly than at the start, by more than chance explains (two standard errors), as
    where a run makes released weights worse.

    Args:
        data: Folder or archive with labels, see :func:`mmssl.evaluation.labelled_images`.
        interval: Epochs (or iterations) between evaluations; there is always one after training.
        by_epoch: Whether ``interval`` counts epochs; False for an iteration-based loop.
        at_start: Evaluate before the first step too, unless the run is resumed.
        k: Number of neighbours that vote.
        temperature: Temperature of the votes' weights.
        pool: 'avg' for the mean of the patch features, 'cls' for the class token; None for the class token
            of a backbone that returns only that, and 'avg' otherwise.
        image_size: Size of the crop in pixels; None for the backbone's ``img_size``, or the size that the run
            trains on.
        max_train: Maximum number of training images, drawn evenly from all classes; None for all.
        max_val: Maximum number of validation images, likewise.
        batch_size: Batch size of the loaders.
        num_workers: Workers of each loader.
        linear: Fit a linear classifier to the same features too (:func:`mmssl.evaluation.linear_probe`), and
            record its accuracy as ``linear/top1``.

    Raises:
        ValueError: An argument is out of range, or the model is sharded (FSDP), so that the ranks cannot
            compute with it independently.
    """

    def __init__(  # noqa: PLR0913  settings of a config
        self,
        data: str,
        interval: int = 10,
        by_epoch: bool = True,
        at_start: bool = False,
        k: int = 20,
        temperature: float = 0.07,
        pool: str | None = None,
        image_size: int | None = None,
        max_train: int | None = None,
        max_val: int | None = None,
        batch_size: int = 64,
        num_workers: int = 0,
        linear: bool = False,
    ):
        for name, value, minimum in (
            ('interval', interval, 1),
            ('k', k, 1),
            ('batch_size', batch_size, 1),
            ('num_workers', num_workers, 0),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
                raise ValueError(f'{name}={value!r} must be a whole number, at least {minimum}')
        if not temperature > 0:
            raise ValueError(f'temperature={temperature!r} must be above 0, as 0.07')
        if pool not in (None, 'avg', 'cls'):
            raise ValueError(f"pool={pool!r} is not one of 'avg', 'cls'")
        self.data = data
        self.interval = interval
        self.by_epoch = by_epoch
        self.at_start = at_start
        self.k = k
        self.temperature = temperature
        self.pool = pool
        self.image_size = image_size
        self.max_train = max_train
        self.max_val = max_val
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.linear = linear
        # images that vote, and images to classify
        self._images: tuple[LabelledImages, LabelledImages] | None = None
        self._evaluated_at = -1
        self._history: list[dict] = []

    def before_train(self, runner) -> None:
        """Read the file lists, so that a wrong path ends the run at once; evaluate if ``at_start``."""
        if is_sharded(runner.model):
            raise ValueError(
                'mmssl.KNNHook cannot evaluate a sharded model (FSDP); remove the hook and run `mmssl knn` '
                'on the checkpoint'
            )
        from mmssl.data.reader_settings import reader_settings
        from mmssl.evaluation import labelled_images
        from mmssl.evaluation.features import image_size_of

        image_size = self.image_size or image_size_of(bare_model(runner.model), runner.cfg)
        train, val = labelled_images(self.data, image_size, **reader_settings(runner.cfg))
        self._images = train.take(self.max_train), val.take(self.max_val)
        if is_main_process():
            path = Path(runner.work_dir) / RESULTS
            # a resumed run extends the list, and repeats what came after its checkpoint
            if runner.iter and path.is_file():
                self._history = [
                    entry
                    for entry in json.loads(path.read_text(encoding='utf-8'))
                    if entry['iter'] <= runner.iter
                ]
        if self.at_start and runner.iter == 0:
            self._evaluate(runner, 0, 0)

    def after_train_epoch(self, runner) -> None:
        """Evaluate every ``interval`` epochs."""
        if self.by_epoch and self.every_n_epochs(runner, self.interval):
            self._evaluate(runner, runner.iter, runner.epoch + 1)

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Evaluate every ``interval`` iterations."""
        if not self.by_epoch and self.every_n_train_iters(runner, self.interval):
            self._evaluate(runner, runner.iter + 1, runner.epoch)

    def after_train(self, runner) -> None:
        """Evaluate the final weights, unless that has just been done."""
        if self._evaluated_at != runner.iter:
            self._evaluate(runner, runner.iter, runner.epoch)

    def _evaluate(self, runner, iteration: int, epoch: int) -> None:
        """Compute, and record on the first rank; ``iteration`` and ``epoch`` are those completed."""
        self._evaluated_at = iteration
        result = self._compute(bare_model(runner.model))
        if result is not None:
            self._record(runner, dict(iter=iteration, epoch=epoch, **result))
        wait_for_first_rank()

    def _compute(self, model) -> dict | None:
        """Return the accuracies and counts, on the first rank; None on the others."""
        from mmssl.evaluation import knn_accuracy, linear_probe

        start = time.monotonic()
        assert self._images is not None
        train, val = self._images
        device = next(model.parameters()).device
        bank, bank_labels = self._extract(model, train)
        features, labels = self._extract(model, val)
        if not is_main_process():
            return None
        k = min(self.k, len(bank))
        scores = knn_accuracy(
            bank.to(device), bank_labels, features.to(device), labels, k, self.temperature, len(train.classes)
        )
        if self.linear:
            probe = linear_probe(
                bank.to(device), bank_labels, features.to(device), labels, epochs=PROBE_EPOCHS
            )
            scores['linear_top1'] = probe['top1']
        return dict(
            **scores,
            k=k,
            num_train=len(bank),
            num_val=len(features),
            seconds=round(time.monotonic() - start, 2),
        )

    def _extract(self, model, images: 'LabelledImages') -> tuple[Tensor, Tensor]:
        """Return the features (N, D) and labels (N,) of all images; on later ranks those of a share.

        Raises:
            ValueError: None of the images can be read, or another rank has failed.
        """
        from mmssl.evaluation import extract_features, image_loader
        from mmssl.evaluation.sharded import gather_rows, on_all_ranks, shard

        part = shard(images, get_rank(), get_world_size())
        features, labels = on_all_ranks(
            lambda: extract_features(
                model, image_loader(part, self.batch_size, self.num_workers), self.pool, may_be_empty=True
            )
        )
        if not sum(all_gather_object(len(features), host_group())):
            raise ValueError(f'none of the {len(images)} images in {images.folder.image_root} can be read')
        return gather_rows(features), gather_rows(labels[:, None])[:, 0]

    def _record(self, runner, result: dict) -> None:
        from mmssl.checkpoint import write_text

        runner.logger.info(
            f'{result["k"]}-NN after {result["iter"]} iterations: top1 {result["top1"]:.2f} %, '
            f'top5 {result["top5"]:.2f} % ({result["num_val"]} images against {result["num_train"]}, '
            f'{result["seconds"]:.1f} s)'
        )
        values = {f'knn/{name}': result[name] for name in ('top1', 'top5')}
        if self.linear:
            values['linear/top1'] = result['linear_top1']
            runner.logger.info(f'linear probe: top1 {result["linear_top1"]:.2f} %')
        for name, value in values.items():
            runner.message_hub.update_scalar(name, value)
            runner.visualizer.add_scalar(name, value, step=result['iter'])
        self._history = [entry for entry in self._history if entry['iter'] != result['iter']] + [result]
        write_text(Path(runner.work_dir) / RESULTS, json.dumps(self._history, indent=2) + '\n')
        message = compare_with_start(self._history[0], result) if self.at_start else ''
        if message:
            runner.logger.warning(f'after {result["iter"]} iterations {message}')


def compare_with_start(start: dict, now: dict) -> str:
    """Say that features classify fewer images correctly than at the start; empty if chance may explain it.

    The difference of two accuracies p and q of n images counts from two standard errors,
    2 sqrt((p (1 - p) + q (1 - q)) / n).

    Args:
        start: ``top1`` in percent and ``num_val`` at the start.
        now: The same of the present features.
    """
    accuracies = [entry['top1'] / 100 for entry in (start, now)]
    error = math.sqrt(sum(accuracy * (1 - accuracy) for accuracy in accuracies) / now['num_val'])
    if accuracies[0] - accuracies[1] <= 2 * error:
        return ''
    return (
        f'the features are worse than at the start: k-NN {now["top1"]:.2f} % ({start["top1"]:.2f} % at the '
        f'start, {now["num_val"]} images); lower the learning rate'
    )
