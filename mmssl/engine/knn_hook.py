"""k-NN accuracy as a hook: how good the features are while they are learned."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

from mmengine.dist import barrier, is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper

from mmssl.registry import HOOKS

if TYPE_CHECKING:
    from mmssl.evaluation.labelled import LabelledImages

RESULTS = 'knn.json'


@HOOKS.register_module()
class KNNHook(Hook):
    """The hosts evaluate pre-training by a second training run; this needs none.

    On several ranks the first one computes and the others wait. Random states and the modes of all modules
    are left as they were, so that a run with the hook trains exactly as one without it. Results go to the
    message hub and the visualizer as ``knn/top1`` and ``knn/top5`` and are appended to
    ``<work_dir>/knn.json``.

    Args:
        data: folder or archive with labels, see :func:`mmssl.evaluation.labelled_images`.
        interval: epochs (or iterations) between evaluations; there is always one after training.
        by_epoch: whether ``interval`` counts epochs; False for an iteration-based loop.
        at_start: evaluate before the first step too; not when a run is resumed.
        k, temperature: of the vote.
        pool: 'avg' or 'cls'.
        image_size: side of the crop in pixels; the backbone's ``img_size``, or the size that the run trains
            on, when None.
        max_train, max_val: use so many images only, of every class its share.
        batch_size, num_workers: of the loaders.

    Raises:
        ValueError: an argument out of range; the model is sharded (FSDP), so that one rank alone cannot
            compute with it.
    """

    def __init__(
        self,
        data: str,
        interval: int = 10,
        by_epoch: bool = True,
        at_start: bool = False,
        k: int = 20,
        temperature: float = 0.07,
        pool: str = 'avg',
        image_size: int | None = None,
        max_train: int | None = None,
        max_val: int | None = None,
        batch_size: int = 64,
        num_workers: int = 0,
    ):
        for name, value, least in (
            ('interval', interval, 1),
            ('k', k, 1),
            ('batch_size', batch_size, 1),
            ('num_workers', num_workers, 0),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f'{name}={value!r} must be a whole number, at least {least}')
        if not temperature > 0:
            raise ValueError(f'temperature={temperature!r} must be above 0, as 0.07')
        if pool not in ('avg', 'cls'):
            raise ValueError(f"pool={pool!r} is not one of 'avg', 'cls'")
        self.data, self.interval, self.by_epoch, self.at_start = data, interval, by_epoch, at_start
        self.k, self.temperature, self.pool, self.image_size = k, temperature, pool, image_size
        self.max_train, self.max_val = max_train, max_val
        self.batch_size, self.num_workers = batch_size, num_workers
        # of the bank and of the evaluation; read by the first rank
        self._images: tuple[LabelledImages, LabelledImages] | None = None
        self._evaluated_at = -1
        self._history: list[dict] = []

    def before_train(self, runner) -> None:
        """Read the file lists, so that a wrong path ends the run now and not after an epoch; evaluate if ``at_start``."""
        if any('FullyShardedDataParallel' in base.__name__ for base in type(runner.model).__mro__):
            raise ValueError(
                'mmssl.KNNHook cannot evaluate a sharded model (FSDP); remove the hook and run `mmssl knn` on the checkpoint'
            )
        if is_main_process():
            from mmssl.evaluation import labelled_images
            from mmssl.evaluation.features import image_size_of

            train, val = labelled_images(
                self.data, self.image_size or image_size_of(self._bare(runner), runner.cfg)
            )
            self._images = train.take(self.max_train), val.take(self.max_val)
            path = Path(runner.work_dir) / RESULTS
            if (
                runner.iter and path.is_file()
            ):  # a resumed run goes on with the list, and does again what came after its checkpoint
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

    @staticmethod
    def _bare(runner):
        model = runner.model
        while is_model_wrapper(model):
            model = model.module
        return model

    def _evaluate(self, runner, iteration: int, epoch: int) -> None:
        """Compute on the first rank and record; ``iteration`` and ``epoch`` are what lies behind us."""
        self._evaluated_at = iteration
        if is_main_process():
            self._record(runner, dict(iter=iteration, epoch=epoch, **self._compute(self._bare(runner))))
        barrier()

    def _compute(self, model) -> dict:
        from mmssl.evaluation import extract_features, image_loader, knn_accuracy

        start = time.monotonic()
        assert self._images is not None
        train, val = self._images
        device = next(model.parameters()).device
        bank, bank_labels = extract_features(
            model, image_loader(train, self.batch_size, self.num_workers), self.pool
        )
        features, labels = extract_features(
            model, image_loader(val, self.batch_size, self.num_workers), self.pool
        )
        k = min(self.k, len(bank))
        scores = knn_accuracy(
            bank.to(device), bank_labels, features.to(device), labels, k, self.temperature, len(train.classes)
        )
        return dict(
            **scores,
            k=k,
            num_train=len(bank),
            num_val=len(features),
            seconds=round(time.monotonic() - start, 2),
        )

    def _record(self, runner, result: dict) -> None:
        from mmssl.checkpoint import write_text

        runner.logger.info(
            f'{result["k"]}-NN after {result["iter"]} iterations: top1 {result["top1"]:.2f} %, top5 {result["top5"]:.2f} % '
            f'({result["num_val"]} images against {result["num_train"]}, {result["seconds"]:.1f} s)'
        )
        for name in ('top1', 'top5'):
            runner.message_hub.update_scalar(f'knn/{name}', result[name])
            runner.visualizer.add_scalar(f'knn/{name}', result[name], step=result['iter'])
        self._history = [entry for entry in self._history if entry['iter'] != result['iter']] + [result]
        write_text(Path(runner.work_dir) / RESULTS, json.dumps(self._history, indent=2) + '\n')
