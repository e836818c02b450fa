"""From own labels to a trained model: a config is written, and the config is what runs."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mmssl.apis.finetune_options import Options
from mmssl.apis.finetune_plan import SAM_LORA, train_config, write_config

if TYPE_CHECKING:
    from mmssl.apis.finetune_summary import LabelCurve

__all__ = ['FineTuned', 'Options', 'finetune', 'write_config']


class FineTuned(NamedTuple):
    """What :func:`finetune` returns.

    Attributes:
        model: The trained model in evaluation mode; None after a dry run. Of a curve, the first seed's model
            of ``checkpoint`` with the most labels.
        inferencer: What predicts with it, see :mod:`mmssl.apis`; None after a dry run.
        config: Path of its config.
        curve: The few-label curve; None for a single run.
    """

    model: Any
    inferencer: Any
    config: str
    curve: 'LabelCurve | None' = None


def finetune(
    checkpoint: str | os.PathLike,
    task: str,
    data: str | os.PathLike,
    work_dir: str | os.PathLike | None = None,
    **options: Any,
) -> FineTuned:
    """Train a model for a task on your labels, from a pre-trained backbone.

    The labels are read whatever their format, split unless their layout is, and converted below the work
    directory. ``work_dir/config.py`` is written, and trained as ``mmssl train`` would train it. With
    ``labels``, ``compare`` or several ``seeds`` it is a run per number of labels, start and seed, each in a
    folder of its own; runs that have ended are not trained again.

    Args:
        checkpoint: Pre-trained checkpoint; 'random' for random weights.
        task: 'classify', 'detect', 'instance' or 'semantic'.
        data: Folder or file of the labels.
        work_dir: Work directory; ``work_dirs/finetune-TASK-DATA`` if None.
        **options: The attributes of :class:`mmssl.apis.finetune_options.Options`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Labels, backbone and task do not fit; the message says why.
        TrainingError: The run failed after its first step.

    Examples:
        >>> from mmssl.apis import finetune
        >>> tuned = finetune('epoch_40.pth', 'detect', 'cells/', 'work_dirs/cells', epochs=20)
        >>> tuned.inferencer('new.jpg')[0]['scores']
        >>> finetune('epoch_40.pth', 'detect', 'cells/', labels='10,50,all', compare='random').curve.rows
    """
    settings = Options(**options)
    checkpoint, data = os.fspath(checkpoint), os.fspath(data)
    curve = None
    if settings.is_curve:
        from mmssl.apis.finetune_curve import train_curve

        path, curve = train_curve(checkpoint, task, data, work_dir, settings)
    else:
        path = write_config(checkpoint, task, data, work_dir, settings)
        if not settings.dry_run:
            train_config(path, settings)
    if settings.dry_run:
        return FineTuned(None, None, str(path))
    inferencer = _inferencer(settings.recipe or task, path, settings)
    return FineTuned(inferencer.model, inferencer, str(path), curve)


def _inferencer(recipe: str, path: Path, settings: Options) -> Any:
    from mmssl import apis
    from mmssl.checkpoint import find_resume_checkpoint
    from mmssl.config.load import load_config

    if recipe == SAM_LORA:
        return apis.PromptInferencer(path, path.parent / 'sam.pth', trust=settings.trust)
    names = {'classify': 'FeatureInferencer', 'semantic': 'SegmentationInferencer'}
    cfg = load_config(str(path), list(settings.cfg_options))
    inferencer = getattr(apis, names.get(recipe, 'DetectionInferencer'))
    return inferencer(cfg, find_resume_checkpoint(cfg.work_dir, quiet=True), trust=settings.trust)
