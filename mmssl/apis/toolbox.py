"""Base class of the inferencers whose models and pipelines are those of a toolbox."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmssl.apis.base import Inferencer
from mmssl.apis.loading import init_weights, load_all_weights, load_backbone, model_from_config

# transforms that read labels, which images from outside do not have
LABEL_LOADERS = ('LoadAnnotations', 'LoadLabelMap', 'LoadPanopticAnnotations')


class ClassInfo(NamedTuple):
    """Names of the classes, and their colors if any are known."""

    names: tuple[str, ...]
    palette: Sequence | None


class ToolboxInferencer(Inferencer):
    """Run a model with the pipeline of its test data, so that the results equal those of ``mmssl test``."""

    def build(self, checkpoint: str | None, trust: bool, backbone_only: bool = False) -> dict:
        """Create the model and the pipeline.

        Args:
            checkpoint: File with the weights; None for random weights.
            trust: As for :func:`mmssl.checkpoint.load_file`.
            backbone_only: Accept a checkpoint of the backbone alone.

        Returns:
            The content of the checkpoint.
        """
        from mmssl.checkpoint import load_file

        self.model, _ = model_from_config(self.cfg)
        self.steps = build_pipeline(self.test_dataset().get('pipeline') or [])
        if checkpoint is None:
            init_weights(self.model)
            return {}
        if backbone_only:
            load_backbone(self.model, checkpoint, trust)
            return load_file(checkpoint, trust=trust, mmap=True)
        return load_all_weights(self.model, checkpoint, trust)

    def need(self, scope: str, model_type: str, system: str, name: str) -> None:
        """Check that a config belongs to a toolbox and has test data, whose pipeline reads the images.

        Args:
            scope: The ``default_scope`` of the toolbox.
            model_type: What its models are called in an error message.
            system: The system, as :func:`mmssl.apis.list_models` takes it.
            name: Name of the config.

        Raises:
            ValueError: It does not.
        """
        if self.cfg.get('default_scope') != scope:
            raise ValueError(
                f'{name} is of no {model_type} (default_scope={self.cfg.get("default_scope")!r}); '
                f'mmssl.apis.list_models(system={system!r}) has names of some'
            )
        if not self.test_dataset().get('pipeline'):
            raise ValueError(
                f'{name} has no test_dataloader, whose pipeline reads images; give the config that the run '
                'was '
                'started with'
            )

    def test_dataset(self) -> dict:
        """Return the settings of the dataset for testing, or else for validation; {} if there is none."""
        loader = self.cfg.get('test_dataloader') or self.cfg.get('val_dataloader') or {}
        return innermost_dataset(loader.get('dataset') or {})

    def read(self, file: Path, index: int) -> dict:
        """Pass an image through the pipeline.

        Raises:
            BadImageError: The file is not an image.
        """
        from mmssl.data.images import BadImageError

        results: Any = dict(img_path=str(file), img_id=index, seg_fields=[], sample_idx=index)
        try:
            for step in self.steps:
                results = step(results)
                if results is None:
                    raise BadImageError('cannot be decoded', str(file))
        except AssertionError:  # raised by the toolboxes for bytes that are not an image
            raise BadImageError('cannot be decoded', str(file)) from None
        return results

    def test(self, files: Sequence[Path]) -> list:
        """Return the outputs of ``model.test_step`` in the order of the files, batched by image size."""
        import torch

        samples = [self.read(file, index) for index, file in enumerate(files)]
        by_shape: dict[tuple, list[int]] = {}
        for index, sample in enumerate(samples):
            by_shape.setdefault(tuple(sample['inputs'].shape), []).append(index)
        outputs: dict[int, Any] = {}
        with torch.no_grad():
            for indices in by_shape.values():
                batch = dict(
                    inputs=[samples[index]['inputs'] for index in indices],
                    data_samples=[samples[index]['data_samples'] for index in indices],
                )
                outputs.update(zip(indices, self.run(batch), strict=True))
        return [outputs[index] for index in range(len(files))]

    def run(self, batch: dict) -> Sequence:
        """Return the results of a batch of images of one size."""
        return self.model.test_step(batch)


def innermost_dataset(dataset: dict) -> dict:
    """Return the settings of a dataset without its wrappers."""
    return innermost_dataset(dataset['dataset']) if 'dataset' in dataset else dataset


def build_pipeline(settings: Sequence[Mapping]) -> list:
    """Build a pipeline without the transforms that load labels."""
    from mmengine.registry import TRANSFORMS

    return [TRANSFORMS.build(step) for step in settings if _type_name(step['type']) not in LABEL_LOADERS]


def _type_name(transform: Any) -> str:
    name = transform if isinstance(transform, str) else transform.__name__
    return name.rpartition('.')[2]


def class_info(checkpoint: Any, dataset: Mapping, num_classes: int | None) -> ClassInfo:
    """Find the names and colors of the classes.

    Args:
        checkpoint: Content of the checkpoint, whose metadata come first.
        dataset: Settings of the dataset, whose ``metainfo`` comes next and the METAINFO of its class last.
        num_classes: Number of classes of the model, which names must match; None if unknown.

    Returns:
        Numbers as names if there are no fitting names.
    """
    from mmengine.registry import DATASETS

    meta = checkpoint.get('meta') if isinstance(checkpoint, dict) else None
    dataset_class = dataset.get('type')
    if isinstance(dataset_class, str):
        dataset_class = DATASETS.get(dataset_class)
    sources = [
        source or {}
        for source in (
            (meta or {}).get('dataset_meta'),
            dataset.get('metainfo'),
            getattr(dataset_class, 'METAINFO', None),
        )
    ]
    for source in sources:
        classes = source.get('classes')
        names = [classes] if isinstance(classes, str) else list(classes or ())
        if names and num_classes in (None, len(names)):
            palettes = [candidate.get('palette') or () for candidate in (source, *sources)]
            return ClassInfo(tuple(names), next((p for p in palettes if len(p) == len(names)), None))
    return ClassInfo(tuple(map(str, range(num_classes or 0))), None)
