"""What is left of a training of the promptable segmenter."""

from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper

from mmssl.registry import HOOKS


@HOOKS.register_module()
class ExportSAMHook(Hook):
    """After training, write the weights in the official names, low-rank updates merged; checkpoints of the host keep what a resume needs.

    ``build_sam(kind, checkpoint=FILE)`` and ``segment_anything`` read the file.

    Args:
        file: name in the work directory.

    Raises:
        ValueError: a model that is no :class:`mmssl.InteractiveSAM`.
    """

    def __init__(self, file: str = 'sam.pth'):
        self.file = file

    def before_train(self, runner) -> None:
        """Refuse a model without an export before the first step."""
        if not hasattr(_bare(runner.model), 'export_state_dict'):
            raise ValueError(
                f'ExportSAMHook writes the weights of mmssl.InteractiveSAM, not of {type(_bare(runner.model)).__name__}'
            )

    def after_train(self, runner) -> None:
        """Write the file."""
        if is_main_process():
            import torch

            path = Path(runner.work_dir) / self.file
            part = path.with_suffix('.part')
            torch.save(
                {name: value.cpu() for name, value in _bare(runner.model).export_state_dict().items()}, part
            )
            part.replace(path)
            runner.logger.info(f'weights in the official names are in {path}')


def _bare(model):
    while is_model_wrapper(model):
        model = model.module
    return model
