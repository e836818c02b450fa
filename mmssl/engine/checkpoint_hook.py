"""Checkpoint hook that removes an old checkpoint only after the new one is complete."""

import os
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook as MMEngineCheckpointHook

from mmssl.checkpoint import TEMPORARY_SUFFIX, write_text
from mmssl.registry import HOOKS

# key in the message hub of the checkpoint that a signal has caused within an epoch
_STOPPED = 'stopped_ckpt'


class _DeferredRemoval:
    """Storage backend that postpones removals.

    Args:
        backend: The backend for everything else.
    """

    def __init__(self, backend):
        self.backend = backend
        self.files = []
        self.directories = []

    def __getattr__(self, name: str):
        return getattr(self.backend, name)

    def remove(self, path) -> None:
        self.files.append(path)

    def rmtree(self, path) -> None:
        self.directories.append(path)

    def carry_out(self, keep) -> None:
        """Remove the noted paths, except for those in ``keep``."""
        for paths, remove in ((self.files, self.backend.remove), (self.directories, self.backend.rmtree)):
            for path in paths:
                if path not in keep:
                    remove(path)


@HOOKS.register_module()
class CheckpointHook(MMEngineCheckpointHook):
    """Checkpoint hook with the arguments of mmengine's, which loses nothing when a run is interrupted.

    mmengine's removes the old checkpoint before it writes the new one, and writes an absolute path to
    ``last_checkpoint``. Use it as ``default_hooks=dict(checkpoint=dict(type='mmssl.CheckpointHook'))``.

    Args:
        *args: Passed on to mmengine's CheckpointHook.
        **kwargs: Passed on to mmengine's CheckpointHook.

    Raises:
        TypeError: An unknown argument, which mmengine reports only at the first save.
    """

    # mmengine's storage backend
    file_backend: Any

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        unknown = sorted(set(self.args) - {'meta'})
        if unknown:
            raise TypeError(f'CheckpointHook.__init__() got an unexpected keyword argument {unknown[0]!r}')

    def before_train(self, runner) -> None:
        """Prepare as mmengine does; correct the paths of a moved directory, remove partial files."""
        super().before_train(runner)
        if not os.path.isdir(self.out_dir):
            return
        if is_main_process():
            for path in Path(self.out_dir).glob(f'.*{TEMPORARY_SUFFIX}'):
                path.unlink(missing_ok=True)
        for name, path in self._best_paths().items():
            moved = path and os.path.join(self.out_dir, os.path.basename(path))
            if moved and moved != path and os.path.exists(moved):
                if name is None:
                    self.best_ckpt_path = moved
                else:
                    self.best_ckpt_path_dict[name] = moved

    def _best_paths(self) -> dict:
        """Return the paths of the best checkpoints by metric; the key is None if there is only one metric."""
        if self.save_best is None:
            return {}
        return (
            {None: self.best_ckpt_path} if len(self.key_indicators) == 1 else dict(self.best_ckpt_path_dict)
        )

    def save_stopped(self, runner, meta: dict) -> str:
        """Save outside the intervals, when a signal stops the run.

        Within an epoch of a run that counts its checkpoints by epochs, the file is named by its iteration,
        and removed when the next one is written.

        Args:
            runner: The runner. All ranks have to call this, unless ``meta`` has the states of the generators.
            meta: ``epoch`` and ``iter`` of the state, and other entries of the checkpoint's ``meta``.

        Returns:
            The file.
        """
        position = runner.exact_resume.position(meta['epoch'], meta['iter'])
        within_epoch = self.by_epoch and position.get('batch', 0) > 0
        if not within_epoch:
            self._save_checkpoint_with_step(runner, meta['epoch'] if self.by_epoch else meta['iter'], meta)
            return self.last_ckpt
        name = f'iter_{meta["iter"]}.pth'
        runner.message_hub.update_info(_STOPPED, name)
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            backend_args=self.backend_args,
        )
        path = self.file_backend.join_path(self.out_dir, name)
        if is_main_process():
            write_text(
                os.path.join(runner.work_dir, 'last_checkpoint'), self._relative(path, runner.work_dir)
            )
        return path

    def _save_best_checkpoint(self, runner, metrics) -> None:
        backend = self.file_backend
        self.file_backend = deferred = _DeferredRemoval(backend)
        try:
            super()._save_best_checkpoint(runner, metrics)
        finally:
            self.file_backend = backend
        deferred.carry_out(keep=self._best_paths().values())

    def _save_checkpoint_with_step(self, runner, step, meta) -> None:
        outdated = None
        # the same step is saved twice when validation improves on the best
        if self.max_keep_ckpts > 0 and not (self.keep_ckpt_ids and self.keep_ckpt_ids[-1] == step):
            if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
                outdated = self.keep_ckpt_ids.popleft()
            self.keep_ckpt_ids.append(step)
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))

        hub = runner.message_hub
        stopped = hub.get_info(_STOPPED) if _STOPPED in hub.runtime_info else None
        if stopped:
            hub.update_info(_STOPPED, '')
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if not is_main_process():
            return
        write_text(
            os.path.join(runner.work_dir, 'last_checkpoint'), self._relative(self.last_ckpt, runner.work_dir)
        )
        for name in filter(None, (stopped, outdated is not None and self.filename_tmpl.format(outdated))):
            path = self.file_backend.join_path(self.out_dir, name)
            if self.file_backend.isfile(path):
                self.file_backend.remove(path)
            elif self.file_backend.isdir(path):
                self.file_backend.rmtree(path)  # a sharded checkpoint

    @staticmethod
    def _relative(path, work_dir) -> str:
        """Return a path relative to the work directory, which may be moved, and a URL unchanged."""
        return str(path) if '://' in str(path) else os.path.relpath(path, work_dir)
