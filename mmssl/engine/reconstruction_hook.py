"""Hook that draws reconstructions of a masked autoencoder during training."""

import numpy as np
import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook

from mmssl.engine.bare_model import bare_model, is_sharded
from mmssl.layers.modes import evaluating
from mmssl.registry import HOOKS


@HOOKS.register_module()
class ReconstructionHook(Hook):
    """Draw the input, masked input and reconstruction of the same images under the same masks.

    The figures go to all backends of the visualizer: a file beside the logs, TensorBoard, Weights & Biases. A
    run with the hook trains exactly as one without it.

    Args:
        images: Files, or a number of them, which are taken evenly from the training data.
        interval: Iterations between figures; there is always one after training.
        seed: Seed of the masks.

    Raises:
        ValueError: The model does not reconstruct, or is sharded.
    """

    def __init__(self, images: int | list[str] = 4, interval: int = 1000, seed: int = 0):
        if interval < 1 or (images < 1 if isinstance(images, int) else not images):
            raise ValueError(f'images={images!r} and interval={interval!r} must be at least 1')
        self.images = images
        self.interval = interval
        self.seed = seed
        self._drawn_at = -1

    def before_train(self, runner) -> None:
        """Read the images, so that a wrong path ends the run at once."""
        model = bare_model(runner.model)
        if not hasattr(model, 'reconstruct') or is_sharded(runner.model):
            raise ValueError(
                'mmssl.ReconstructionHook draws what a masked autoencoder on one device reconstructs; '
                f'{type(model).__name__} is none, or is sharded: remove the hook'
            )
        if not is_main_process():
            return
        from mmssl.data.reader_settings import reader_settings
        from mmssl.visualization.reconstruction import read_image

        paths = self.images
        if isinstance(paths, int):
            dataset = runner.train_dataloader.dataset
            count = min(paths, len(dataset))
            paths = [
                dataset.get_data_info(index * len(dataset) // count)['img_path'] for index in range(count)
            ]
        reading = reader_settings(runner.cfg)
        size = model.backbone.img_size
        self._pixels = torch.stack([read_image(path, size, **reading) for path in paths])
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

        model = bare_model(runner.model)
        noise = self._noise.to(next(model.parameters()).device)
        with evaluating(model):
            figure = draw_reconstructions(model, self._pixels, noise)
        runner.visualizer.add_image('reconstruction', np.asarray(figure), step=step)
