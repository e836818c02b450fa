"""Export of whole models to ONNX, compared with PyTorch before the file is left."""

import copy
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from mmssl.apis.onnx_models.compare import Agreement, Comparison
from mmssl.apis.onnx_models.graph_file import SIZES, write_graph
from mmssl.apis.onnx_models.preprocessing import image_lines, largest_size, pad_lines
from mmssl.apis.onnx_models.samples import flip_sample, made_up_images, pad_sample, resized_sample
from mmssl.apis.onnx_models.script import ScriptSettings, script_text
from mmssl.errors import UserError

# images of a folder that are compared
MAX_IMAGES = 20
DEFAULT_THRESHOLD = 0.3


class ExportedModel(NamedTuple):
    """What was written.

    Attributes:
        path: The graph.
        script: The script beside it; None if it was not wanted.
        task: 'classify', 'semantic', 'detect' or 'instance'.
        inputs: Shape of the input in words, such as '(batch, 3, height, width)'.
        outputs: Names of the outputs.
        agreement: Result of the comparison with PyTorch.
    """

    path: Path
    script: Path | None
    task: str
    inputs: str
    outputs: tuple[str, ...]
    agreement: Agreement

    def __str__(self) -> str:
        text = f'image {self.inputs} RGB from 0 to 255 -> {", ".join(self.outputs)}; {self.agreement}'
        return text if self.script is None else f'{text}; python {self.script} IMAGE... runs it'


def export_model(  # noqa: PLR0913  what the command line has
    config: Any,
    checkpoint: str | os.PathLike | None,
    out: str | os.PathLike,
    images: Any = None,
    fp16: bool = False,
    script: bool = True,
    force: bool = False,
    trust: bool = False,
    options: Sequence[str] = (),
) -> ExportedModel:
    """Write a classifier, segmentor or two-stage detector as an ONNX graph, and a script that runs it.

    The graph takes images (B, 3, H, W), RGB from 0 to 255, and normalises and pads them itself. Classifiers
    and segmentors return 'logits', (B, C) and (B, C, H, W). Detectors return 'boxes' (N, 4), x1, y1, x2, y2
    in pixels of the input, 'scores' (N,), best first in each image, 'labels' (N,), the index of their image
    'images' (N,), and with masks 'masks' (N, S, S), the probabilities inside the boxes; thresholds and
    non-maximum suppression are those of the config. Batch, height and width are dynamic; a backbone that
    allows one size only, such as a ViT, has a graph of one size. Segmentors see the whole image, also where
    the config has sliding windows.

    Both files are left only if onnxruntime agrees with PyTorch: logits within 1e-4 of the largest (or of 1),
    the same boxes and labels, scores within 1e-4. With ``fp16``, within 0.03, and for 90 % of the objects.

    Args:
        config: A name of :func:`mmssl.apis.list_models`, a path, or a ``mmengine.Config``.
        checkpoint: Weights of the model; None for random ones.
        out: The graph, a name that ends in .onnx.
        images: Images to compare with: a folder, of which 20 are taken, or files; made-up ones if None.
        fp16: Write weights in half precision, with which the layers compute; the input stays float32.
        script: Write a Python script of the same name beside it.
        force: Replace files that exist.
        trust: Load a checkpoint that contains pickled code.
        options: ``KEY=VALUE`` overrides of the config.

    Returns:
        What was written.

    Raises:
        ValueError: The model cannot be exported, the checkpoint does not fit it, or the name does not end in
            .onnx.
        FileExistsError: A file exists.
        FileNotFoundError: There is no such config, checkpoint or image.
        UserError: The graph does not agree with PyTorch.
        ImportError: onnx or onnxruntime is missing.

    Examples:
        >>> from mmssl.apis import export_model
        >>> print(export_model('work_dirs/cells/config.py', 'work_dirs/cells/iter_600.pth', 'cells.onnx',
        ...                    images='cells/val'))
    """
    from mmssl.apis.models import scope_of
    from mmssl.apis.predict_models import Predictor, Recipe
    from mmssl.apis.sources import find_sources

    out = Path(out)
    script_path = out.with_suffix('.py') if script else None
    _check_names(out, script_path, force)
    _check_packages()
    sources = None if images is None else find_sources(images)
    weights = None if checkpoint is None else os.fspath(checkpoint)
    infer = Predictor(Recipe(config, weights, tuple(options), trust, 'cpu')).infer
    out.parent.mkdir(parents=True, exist_ok=True)
    with scope_of(infer.cfg), tempfile.TemporaryDirectory(dir=out.parent, prefix='.export-') as folder:
        if sources is None:
            files = made_up_images(Path(folder))
        else:
            step = max(1, len(sources) // MAX_IMAGES)
            files = [infer._file(source, folder) for source in sources[::step][:MAX_IMAGES]]
        samples = [infer.read(file, index) for index, file in enumerate(files)]
        work = _Export(infer, torch.float16 if fp16 else torch.float32, Path(folder) / 'graph.onnx')
        text = work.script(out.with_suffix('.py').name) if script else None
        agreement = work.run(samples, [file.name for file in files])
        if script_path is not None and text is not None:
            text = work.script(script_path.name)
            (Path(folder) / 'script.py').write_text(text, encoding='utf-8')
            os.replace(Path(folder) / 'script.py', script_path)
        os.replace(work.path, out)
    return ExportedModel(out, script_path, work.task, work.inputs, tuple(work.graph.names), agreement)


class _Export:
    """An export in progress.

    Args:
        infer: Inferencer of the model.
        dtype: Data type of the weights of the graph.
        path: File for the graph.
    """

    def __init__(self, infer: Any, dtype: torch.dtype, path: Path):
        self.infer = infer
        self.model = infer.model
        self.dtype = dtype
        self.path = path
        self.graph, self.task = build_graph(infer.model, infer.cfg.get('default_scope'), dtype)
        self.pipeline = infer.test_dataset()['pipeline']
        self.axes: Mapping[int, str] = SIZES
        self.size: tuple[int, int] | None = None
        self.is_padded = False

    @property
    def inputs(self) -> str:
        """Shape of the input in words."""
        sizes = (1, 3, *(self.size or (0, 0)))
        return f'({", ".join(self.axes.get(axis, str(size)) for axis, size in enumerate(sizes))})'

    @property
    def mask_threshold(self) -> float:
        """Lowest probability of the pixels of a mask."""
        return self.model.test_cfg.rcnn.mask_thr_binary if self.task == 'instance' else 0.5

    def script(self, name: str) -> str:
        """Return the text of the script that runs the graph."""
        lines = image_lines(self.pipeline)
        if self.is_padded:
            assert self.size is not None
            lines += pad_lines(*self.size, self.padding_color)
        threshold = None
        if self.task in ('detect', 'instance'):
            threshold = DEFAULT_THRESHOLD
        elif self.task == 'semantic' and self.model.out_channels == 1:
            threshold = float(torch.logit(torch.tensor(float(self.model.decode_head.threshold))))
        config = Path(self.infer.cfg.filename or 'a config').name
        classes = self.infer.classes
        settings = ScriptSettings(self.task, config, classes, lines, threshold, self.mask_threshold)
        return script_text(settings, name)

    def run(self, samples: list[dict], names: list[str]) -> Agreement:
        """Write the graph with as many dynamic axes as agree, and compare it on all images."""
        sizes = f'{tuple(samples[0]["inputs"].shape[1:])}'
        for axes in (SIZES, {0: SIZES[0]}, {}):
            self.axes = axes
            if 2 not in axes and self.size is None:
                samples = self._fix_size(samples)
            try:
                comparison = self._write_and_probe(samples[0], names[0])
                break
            except Exception as error:  # of torch, onnx, onnxruntime or the model, for sizes it cannot take
                reason = error
        else:
            if isinstance(reason, UserError):
                raise reason
            first = str(reason).strip().partition('\n')[0]
            raise UserError(
                f'{type(self.model).__name__} cannot be exported at {sizes}: {type(reason).__name__}: {first}'
            ) from reason
        comparison.images = comparison.objects = 0
        for sample, name in zip(samples, names, strict=True):
            comparison.add([sample], name)
        return comparison.result()

    def _write_and_probe(self, sample: dict, name: str) -> Comparison:
        """Write the graph, and compare it on a batch of two and on another size where these are dynamic."""
        example = sample['inputs'].flip(0).float()[None]
        metadata = {'task': self.task, 'classes': '\n'.join(self.infer.classes), 'producer': 'mmssl'}
        write_graph(self.graph, example, self.path, self.axes, metadata)
        comparison = Comparison(self.path, self.model, self.task, self.dtype, self.mask_threshold)
        if 2 in self.axes:
            comparison.add([resized_sample(sample, self.task != 'classify')], f'{name} in another size')
        if 0 in self.axes:
            comparison.add([sample, flip_sample(sample)], f'{name} and its mirror image as a batch')
        return comparison

    def _fix_size(self, samples: list[dict]) -> list[dict]:
        """Choose the only size of the graph, and pad the images to it.

        Raises:
            UserError: An image is larger than the pipeline says.
        """
        shapes = [tuple(sample['inputs'].shape[1:]) for sample in samples]
        size = largest_size(self.pipeline) or tuple(max(shape[axis] for shape in shapes) for axis in (0, 1))
        divisor = self.graph.input.divisor
        height, width = (-(-length // divisor) * divisor for length in size)
        self.size = (height, width)
        self.is_padded = any(shape != self.size for shape in shapes)
        return [pad_sample(sample, self.size, self.padding_color) for sample in samples]

    @property
    def padding_color(self) -> tuple[int, ...]:
        """RGB color that becomes 0 by normalisation."""
        if not self.graph.input.is_normalized:
            return (0, 0, 0)
        color = self.graph.input.mean.flatten().expand(3).round().int().tolist()
        return tuple(color[::-1] if self.graph.input.takes_bgr else color)


def build_graph(model: nn.Module, scope: str | None, dtype: torch.dtype) -> tuple[Any, str]:
    """Return the graph of a model as a module, and its task.

    Args:
        model: Classifier, segmentor or detector.
        scope: ``default_scope`` of its config.
        dtype: Data type of the weights in the graph; normalisation is float32.

    Raises:
        UserError: The model cannot be exported.
    """
    from mmssl.apis.onnx_models.maps import ClassifierGraph, SegmentorGraph
    from mmssl.apis.onnx_models.pooling import replace_adaptive_pooling

    model = copy.deepcopy(model).eval()
    for name, part in model.named_children():
        if name != 'data_preprocessor':
            part.to(dtype)
    replace_adaptive_pooling(model)
    if scope == 'mmdet':
        from mmssl.apis.onnx_models.detector import DetectorGraph

        graph: Any = DetectorGraph(model)
        task = 'instance' if graph.has_masks else 'detect'
    elif scope == 'mmseg':
        graph, task = SegmentorGraph(model), 'semantic'
    else:
        graph, task = ClassifierGraph(model), 'classify'
    return graph.eval().requires_grad_(False), task


def _check_names(out: Path, script: Path | None, force: bool) -> None:
    if out.suffix != '.onnx':
        raise ValueError(f'{out}: give a name that ends in .onnx')
    for path in filter(None, (out, script)):
        if path.is_dir():
            raise FileExistsError(f'{path} is a folder; give another name')
        if path.exists() and not force:
            raise FileExistsError(f'{path} exists; --force (in Python force=True) replaces it')


def _check_packages() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise ImportError(f'ONNX export needs two packages: pip install onnx onnxruntime ({error})') from None
