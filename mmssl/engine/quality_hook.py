"""Hook that measures the quality of the features during training, without labels."""

import json
import random
from pathlib import Path

import numpy as np
import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from torch import Tensor, nn

from mmssl.engine.bare_model import bare_model, is_sharded
from mmssl.layers.modes import evaluating
from mmssl.registry import HOOKS

RESULTS = 'feature_quality.json'
# key in the message hub: whether the run began with trained weights
TRAINED_START = 'feature_quality/trained_start'


@HOOKS.register_module()
class FeatureQualityHook(Hook):
    """Log RankMe, standard deviation and uniformity of features, and warn where training makes them worse.

    See :mod:`mmssl.evaluation.quality`. The images are the same in every measurement: drawn once from the
    training data with its pipeline; of several views the first is taken. The first rank measures. A run with
    the hook trains exactly as one without it. A ViT with a class token also has the entropy of its attention
    in the last block, which falls to 0 where every head looks at a single patch. Results go to the message
    hub and the visualizer as ``quality/rankme`` and so on, and to ``<work_dir>/feature_quality.json``.

    Every measurement is compared with the one at the start. A warning with the numbers follows where the
    standard deviation is less than ``spread`` times or RankMe less than ``collapse`` times as large: the
    features collapse. In a run that
    goes on from trained weights (``load_from``, or a backbone with an ``init_cfg`` of type 'Pretrained') one
    follows too where RankMe is less than ``worse`` times as large: the features have become worse. RankMe of
    random weights says nothing about their quality, and falls in good runs.

    Args:
        interval: Iterations between measurements; there is always one before and one after training.
        images: Number of images; RankMe is at most that.
        views: Draws of the pipeline for each image; with two or more, LiDAR is measured too.
        pool: 'avg' or 'cls', as for :class:`~mmssl.engine.knn_hook.KNNHook`.
        collapse: Fraction of RankMe's start below which the features count as collapsed.
        spread: Fraction of the standard deviation's start below which they do so too.
        worse: Fraction of the RankMe of trained weights below which the features count as worse.
        batch_size: Images in a forward pass.
        seed: Seed of the draw.

    Raises:
        ValueError: An argument is out of range, or the model is sharded (FSDP).
    """

    def __init__(  # noqa: PLR0913  settings of a config
        self,
        interval: int = 500,
        images: int = 256,
        views: int = 1,
        pool: str | None = None,
        collapse: float = 0.3,
        spread: float = 0.8,
        worse: float = 0.8,
        batch_size: int = 64,
        seed: int = 0,
    ):
        for name, value, minimum in (
            ('interval', interval, 1),
            ('images', images, 2),
            ('views', views, 1),
            ('batch_size', batch_size, 1),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
                raise ValueError(f'{name}={value!r} must be a whole number, at least {minimum}')
        if not 0 <= collapse <= worse <= 1:
            raise ValueError(f'collapse={collapse!r} and worse={worse!r} must be in [0, 1], in this order')
        if not 0 <= spread <= 1:
            raise ValueError(f'spread={spread!r} must be in [0, 1]')
        if pool not in (None, 'avg', 'cls'):
            raise ValueError(f"pool={pool!r} is not one of 'avg', 'cls'")
        self.interval = interval
        self.images = images
        self.views = views
        self.pool = pool
        self.collapse = collapse
        self.spread = spread
        self.worse = worse
        self.batch_size = batch_size
        self.seed = seed
        self._batch: Tensor | None = None  # (N * views, C, H, W), as the pipeline gives them
        self._history: list[dict] = []

    def before_train(self, runner) -> None:
        """Draw the images, and measure the start."""
        if is_sharded(runner.model):
            raise ValueError(
                'mmssl.FeatureQualityHook cannot measure a sharded model (FSDP); remove the hook'
            )
        if not is_main_process():
            return
        self._batch = self._draw(runner.train_dataloader.dataset)
        if runner.iter == 0:  # kept in the checkpoint, for a resumed run
            runner.message_hub.update_info(TRAINED_START, starts_from_trained_weights(runner))
        path = Path(runner.work_dir) / RESULTS
        if runner.iter and path.is_file():  # a resumed run extends the list
            entries = json.loads(path.read_text(encoding='utf-8'))
            self._history = [entry for entry in entries if entry['iter'] <= runner.iter]
        if not self._history:
            self._measure(runner, runner.iter)

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Measure every ``interval`` iterations."""
        if is_main_process() and self.every_n_train_iters(runner, self.interval):
            self._measure(runner, runner.iter + 1)

    def after_train(self, runner) -> None:
        """Measure the final weights, unless that has just been done."""
        if is_main_process() and self._history[-1]['iter'] != runner.iter:
            self._measure(runner, runner.iter)

    def _draw(self, dataset) -> Tensor:
        from mmssl.evaluation import preserve_rng

        count = min(self.images, len(dataset))
        drawn = []
        with preserve_rng():
            random.seed(self.seed)
            np.random.seed(self.seed)
            torch.manual_seed(self.seed)
            for index in range(count):
                for _ in range(self.views):
                    inputs = dataset[index * len(dataset) // count]['inputs']
                    drawn.append(inputs[0] if isinstance(inputs, (list, tuple)) else inputs)
        return torch.stack(drawn)

    def _measure(self, runner, iteration: int) -> None:
        from mmssl.checkpoint import write_text
        from mmssl.evaluation import extract_features
        from mmssl.evaluation.quality import feature_quality, lidar

        assert self._batch is not None
        batches = [(part, torch.zeros(len(part))) for part in self._batch.split(self.batch_size)]
        features, _ = extract_features(bare_model(runner.model), batches, self.pool, progress=False)
        views = features.unflatten(0, (-1, self.views))
        result = feature_quality(views[:, 0])
        if self.views > 1:
            result['lidar'] = lidar(views)
        entropy = self._attention_entropy(bare_model(runner.model))
        if entropy is not None:
            result['attention_entropy'] = entropy
        runner.logger.info(
            f'features after {iteration} iterations: '
            + ', '.join(f'{name} {value:.4g}' for name, value in result.items())
            + f' ({len(views)} images)'
        )
        for name, value in result.items():
            runner.message_hub.update_scalar(f'quality/{name}', value)
            runner.visualizer.add_scalar(f'quality/{name}', value, step=iteration)
        self._history = [entry for entry in self._history if entry['iter'] != iteration]
        self._history.append(dict(iter=iteration, **result))
        write_text(Path(runner.work_dir) / RESULTS, json.dumps(self._history, indent=2) + '\n')
        worse = self.worse if runner.message_hub.get_info(TRAINED_START) else 0.0
        limits = dict(collapse=self.collapse, spread=self.spread, worse=worse)
        message = compare_with_start(self._history[0], result, **limits)
        if message:
            runner.logger.warning(f'after {iteration} iterations {message}')

    @torch.no_grad()
    def _attention_entropy(self, model: nn.Module) -> float | None:
        """Return the entropy of the class token's attention in the last block; None without such a token."""
        from mmssl.evaluation.quality import attention_entropy
        from mmssl.visualization.attention import backbone_of, check_attention, class_attention

        assert self._batch is not None
        backbone = backbone_of(model)
        try:
            check_attention(backbone)
        except ValueError:
            return None
        images = self._batch[:: self.views][: self.batch_size]
        with evaluating(model):
            inputs = model.data_preprocessor(dict(inputs=images, data_samples=None), False)['inputs']
            return attention_entropy(class_attention(backbone, inputs))


def starts_from_trained_weights(runner) -> bool:
    """Whether a run begins with the weights of a checkpoint, all of them or those of its backbone."""
    if runner.cfg.get('load_from'):
        return True
    backbone = getattr(bare_model(runner.model), 'backbone', None)
    parts = [] if backbone is None else backbone.modules()
    settings = [getattr(part, 'init_cfg', None) or [] for part in parts]
    listed = [cfg for each in settings for cfg in (each if isinstance(each, (list, tuple)) else [each])]
    return any(cfg.get('type') == 'Pretrained' for cfg in listed)


def compare_with_start(start: dict, now: dict, collapse: float, spread: float, worse: float) -> str:
    """Say what is wrong with features, compared with those at the start; empty if nothing is.

    Args:
        start: RankMe ('rankme') and standard deviation ('std') at the start.
        now: The same of the present features.
        collapse: Fraction of RankMe's start below which they count as collapsed.
        spread: Fraction of the standard deviation's start below which they do so too.
        worse: Fraction of RankMe's start below which they count as worse.
    """
    numbers = (
        f'RankMe is {now["rankme"]:.4g} ({start["rankme"]:.4g} at the start), the standard deviation '
        f'{now["std"]:.4g} ({start["std"]:.4g})'
    )
    if now['rankme'] < collapse * start['rankme'] or now['std'] < spread * start['std']:
        return (
            f'the features collapse: {numbers}; lower the learning rate, and check what keeps outputs apart: '
            'centring, temperature, negatives, momentum'
        )
    if now['rankme'] < worse * start['rankme']:
        return f'the features are worse than at the start: {numbers}; lower the learning rate'
    return ''
