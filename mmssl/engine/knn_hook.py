"""k-NN accuracy as a hook: how good the features are while they are learned."""

import json
import time
from pathlib import Path

from mmengine.dist import barrier, is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper

from mmssl.registry import HOOKS

RESULTS = 'knn.json'


@HOOKS.register_module()
class KNNHook(Hook):
    """The hosts evaluate pre-training by a second training run; this needs none.

    On several ranks the first one computes and the others wait. Random states and the modes of all modules are left as they were, so that
    a run with the hook trains exactly as one without it. Results go to the message hub and the visualizer as ``knn/top1`` and
    ``knn/top5`` and are appended to ``<work_dir>/knn.json``.

    Args:
        data: folder or archive with labels, see :func:`mmssl.evaluation.labelled_images`.
        interval: epochs (or iterations) between evaluations; there is always one after training.
        by_epoch: whether ``interval`` counts epochs.
        at_start: evaluate before the first step too; not when a run is resumed.
        k, temperature: of the vote.
        pool: 'avg' or 'cls'.
        image_size: side of the crop in pixels; the backbone's ``img_size``, or 224, when None.
        max_train, max_val: use so many images only, of every class its share.
        batch_size, num_workers: of the loaders.

    Raises:
        ValueError: an argument out of range; the model is sharded (FSDP), so that one rank alone cannot compute with it.
    """
    # after the EMA hook has put its weights back and before the logger and the checkpoint
    priority = 'NORMAL'

    def __init__(self, data: str, interval: int = 10, by_epoch: bool = True, at_start: bool = False, k: int = 20, temperature: float = 0.07,
                 pool: str = 'avg', image_size: int | None = None, max_train: int | None = None, max_val: int | None = None,
                 batch_size: int = 64, num_workers: int = 0):
        for name, value, least in (('interval', interval, 1), ('k', k, 1), ('batch_size', batch_size, 1), ('num_workers', num_workers, 0)):
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
        self._images = None
        self._evaluated_at = -1

    def before_train(self, runner) -> None:
        """Read the file lists, so that a wrong path ends the run now and not after an epoch; evaluate if ``at_start``."""
        if any('FullyShardedDataParallel' in base.__name__ for base in type(runner.model).__mro__):
            raise ValueError('mmssl.KNNHook cannot evaluate a sharded model (FSDP); remove the hook and run `mmssl knn` on the checkpoint')
        if is_main_process():
            from mmssl.evaluation import labelled_images
            from mmssl.evaluation.command import image_size_of
            train, val = labelled_images(self.data, self.image_size or image_size_of(self._bare(runner)))
            self._images = train.take(self.max_train), val.take(self.max_val)
        if self.at_start and runner.iter == 0:
            self._evaluate(runner)

    def after_train_epoch(self, runner) -> None:
        """Evaluate every ``interval`` epochs."""
        if self.by_epoch and self.every_n_epochs(runner, self.interval):
            self._evaluate(runner)

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Evaluate every ``interval`` iterations."""
        if not self.by_epoch and self.every_n_train_iters(runner, self.interval):
            self._evaluate(runner, done=runner.iter + 1)

    def after_train(self, runner) -> None:
        """Evaluate the final weights, unless that has just been done."""
        if self._evaluated_at != runner.iter:
            self._evaluate(runner)

    @staticmethod
    def _bare(runner):
        model = runner.model
        while is_model_wrapper(model):
            model = model.module
        return model

    def _evaluate(self, runner, done: int | None = None) -> None:
        """Compute on the first rank and record; ``done`` is the number of iterations behind us, ``runner.iter`` when None."""
        done = runner.iter if done is None else done
        self._evaluated_at = done
        if is_main_process():
            self._record(runner, done, self._compute(runner))
        barrier()

    def _compute(self, runner) -> dict:
        from mmssl.evaluation import extract_features, image_loader, knn_accuracy
        start = time.monotonic()
        train, val = self._images
        (bank, bank_labels), (features, labels) = (
            extract_features(self._bare(runner), image_loader(images, self.batch_size, self.num_workers), self.pool) for images in (train, val))
        k = min(self.k, len(bank))
        scores = knn_accuracy(bank, bank_labels, features, labels, k, self.temperature, len(train.classes))
        return dict(**scores, k=k, num_train=len(bank), num_val=len(features), seconds=round(time.monotonic() - start, 2))

    def _record(self, runner, done: int, result: dict) -> None:
        from mmssl.checkpoint import write_text
        runner.logger.info(f'{result["k"]}-NN after {done} iterations: top1 {result["top1"]:.2f} %, top5 {result["top5"]:.2f} % '
                           f'({result["num_val"]} images against {result["num_train"]}, {result["seconds"]:.1f} s)')
        for name in ('top1', 'top5'):
            runner.message_hub.update_scalar(f'knn/{name}', result[name])
            runner.visualizer.add_scalar(f'knn/{name}', result[name], step=done)
        path = Path(runner.work_dir) / RESULTS
        history = json.loads(path.read_text(encoding='utf-8')) if path.is_file() else []
        # a resumed run replaces what it does again
        history = [entry for entry in history if entry['iter'] < done]
        history.append(dict(iter=done, epoch=runner.epoch + (1 if self.by_epoch and done == runner.iter and done else 0), **result))
        write_text(path, json.dumps(history, indent=2) + '\n')
