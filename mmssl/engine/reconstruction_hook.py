"""Pictures of what a masked autoencoder makes of a few images, while it learns."""

import numpy as np
import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper

from mmssl.registry import HOOKS


@HOOKS.register_module()
class ReconstructionHook(Hook):
    """Input, masked input and reconstruction of the same images under the same masks, for all backends of the visualizer: a file beside the
    logs, TensorBoard, Weights & Biases. The hosts' visualization hooks draw labels, and pre-training has
    none.

    A run with the hook trains exactly as one without it.

    Args:
        images: files, or a number of them, evenly over the training data.
        interval: iterations between pictures; there is always one after training.
        seed: of the masks.

    Raises:
        ValueError: the model does not reconstruct, or is sharded.
    """

    def __init__(self, images: int | list[str] = 4, interval: int = 1000, seed: int = 0):
        if interval < 1 or (images < 1 if isinstance(images, int) else not images):
            raise ValueError(f'images={images!r} and interval={interval!r} must be at least 1')
        self.images, self.interval, self.seed = images, interval, seed
        self._drawn_at = -1

    def before_train(self, runner) -> None:
        """Read the images, so that a wrong path ends the run now."""
        model = _bare(runner.model)
        if not hasattr(model, 'reconstruct') or any(
            'FullyShardedDataParallel' in base.__name__ for base in type(runner.model).__mro__
        ):
            raise ValueError(
                f'mmssl.ReconstructionHook draws what a masked autoencoder on one device reconstructs; {type(model).__name__} '
                'is none, or is sharded: remove the hook'
            )
        if not is_main_process():
            return
        from mmssl.visualization.reconstruction import read_image

        paths = self.images
        if isinstance(paths, int):
            dataset = runner.train_dataloader.dataset
            count = min(paths, len(dataset))
            paths = [
                dataset.get_data_info(place * len(dataset) // count)['img_path'] for place in range(count)
            ]
        self._pixels = torch.stack([read_image(path, model.backbone.img_size) for path in paths])
        rows, columns = model.backbone.patch_resolution
        self._noise = torch.rand(
            len(paths), rows * columns, generator=torch.Generator().manual_seed(self.seed)
        )

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Draw every ``interval`` iterations."""
        if self.every_n_train_iters(runner, self.interval):
            self._draw(runner, runner.iter + 1)

    def after_train(self, runner) -> None:
        """Draw the end, unless that has just been done."""
        if self._drawn_at != runner.iter:
            self._draw(runner, runner.iter)

    @torch.no_grad()
    def _draw(self, runner, step: int) -> None:
        self._drawn_at = step
        if not is_main_process():
            return
        from mmssl.visualization.reconstruction import draw_reconstructions

        model = _bare(runner.model)
        modes = [(module, module.training) for module in model.modules()]
        noise = self._noise.to(next(model.parameters()).device)
        figure = draw_reconstructions(model, self._pixels, noise)
        for module, mode in modes:
            module.training = mode
        runner.visualizer.add_image('reconstruction', np.asarray(figure), step=step)


def _bare(model):
    while is_model_wrapper(model):
        model = model.module
    return model
