"""A hook that exports the weights of a trained promptable segmenter."""

from pathlib import Path

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper

from mmssl.registry import HOOKS


@HOOKS.register_module()
class ExportSAMHook(Hook):
    """Write the weights under the official names after training, with low-rank updates merged.

    ``build_sam(kind, checkpoint=FILE)`` and ``segment_anything`` read the file. Checkpoints of the runner
    keep what resuming needs.

    Args:
        file: Name of the file in the work directory.

    Raises:
        ValueError: The model is no :class:`mmssl.InteractiveSAM`.
    """

    def __init__(self, file: str = 'sam.pth'):
        self.file = file

    def before_train(self, runner) -> None:
        """Refuse a model that cannot be exported before the first step."""
        model = _unwrap(runner.model)
        if not hasattr(model, 'export_state_dict'):
            raise ValueError(
                f'ExportSAMHook writes the weights of mmssl.InteractiveSAM, not of {type(model).__name__}'
            )

    def after_train(self, runner) -> None:
        """Write the file."""
        if is_main_process():
            path = Path(runner.work_dir) / self.file
            partial = path.with_suffix('.part')
            state = _unwrap(runner.model).export_state_dict()
            torch.save({name: value.cpu() for name, value in state.items()}, partial)
            partial.replace(path)
            runner.logger.info(f'weights in the official names are in {path}')


def _unwrap(model):
    while is_model_wrapper(model):
        model = model.module
    return model
