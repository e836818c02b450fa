"""The script that is written beside a graph: images in, classes out, with numpy, Pillow and onnxruntime."""

import inspect
import textwrap
from collections.abc import Callable, Sequence
from typing import NamedTuple

from mmssl.apis.onnx_models.runtime import paste_mask, resize

HEAD = '''"""{title}: python {script} IMAGE...

Written by `mmssl export model` from {config}. Needs numpy, Pillow and onnxruntime.
"""

import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

CLASSES = {classes}
session = onnxruntime.InferenceSession(str(Path(__file__).with_suffix('.onnx')))
{functions}

def load(path):
    """Return the input of the graph, and the size of the image before and after it was resized."""
    image = ImageOps.exif_transpose(Image.open(path)).convert('RGB')
    original = resized = image.size
{steps}
    return np.asarray(image, np.float32).transpose(2, 0, 1)[None], original, resized


for path in sys.argv[1:]:
    pixels, original, resized = load(path)
'''

CLASSIFIER = """    (logits,) = session.run(None, {{'image': pixels}})[0]
    scores = np.exp(logits - logits.max())
    scores /= scores.sum()
    for label in scores.argsort()[::-1][:5]:
        print(f'{{path}}: {{CLASSES[label]}} {{scores[label]:.4f}}')
"""

SEGMENTOR = """    (logits,) = session.run(None, {{'image': pixels}})[0]
    logits = logits[:, : resized[1], : resized[0]]
    logits = np.stack([resize(Image.fromarray(each), original) for each in logits])
    labels = {labels}
    Image.fromarray(labels.astype(np.uint8)).save(f'{{Path(path).stem}}_classes.png')
    for label in np.unique(labels):
        print(f'{{path}}: {{CLASSES[label]}} {{(labels == label).mean():.2%}} of the pixels')
"""

DETECTOR = """    boxes, scores, labels, _{masks} = session.run(None, {{'image': pixels}})
    boxes = boxes * np.tile(np.divide(original, resized), 2).astype(np.float32)
    for index in np.flatnonzero(scores >= {threshold}):
        box = ' '.join(f'{{edge:.1f}}' for edge in boxes[index])
        text = f'{{path}}: {{CLASSES[labels[index]]}} {{scores[index]:.4f}} at {{box}}'
{area}        print(text)
"""

AREA = """        mask = paste_mask(masks[index], boxes[index], original) >= {mask_threshold}
        text += f', {{mask.sum()}} pixels'
"""


class ScriptSettings(NamedTuple):
    """What a script is made of.

    Attributes:
        task: 'classify', 'semantic', 'detect' or 'instance'.
        config: Name of the config.
        classes: Names of the classes.
        steps: Lines from :func:`mmssl.apis.onnx_models.preprocessing.image_lines`.
        threshold: Lowest score of printed objects; for a segmentor with one logit, the lowest logit of
            class 1.
        mask_threshold: Lowest probability of the pixels of a mask.
    """

    task: str
    config: str
    classes: Sequence[str]
    steps: Sequence[str]
    threshold: float | None = None
    mask_threshold: float = 0.5


TITLES = {
    'classify': 'Classify images',
    'semantic': 'Classify the pixels of images',
    'detect': 'Detect objects',
    'instance': 'Detect objects and their masks',
}


def script_text(settings: ScriptSettings, name: str) -> str:
    """Return the text of a script.

    Args:
        settings: What it is made of.
        name: Its file name.
    """
    uses_resize = settings.task == 'semantic' or any('resize(image' in line for line in settings.steps)
    used: list[Callable] = [resize] if uses_resize else []
    used += [paste_mask] if settings.task == 'instance' else []
    head = HEAD.format(
        title=TITLES[settings.task],
        script=name,
        config=settings.config,
        classes=textwrap.fill(repr(list(settings.classes)), 100, subsequent_indent=' ' * 4),
        functions=''.join(f'\n\n{inspect.getsource(function)}' for function in used),
        steps=textwrap.indent('\n'.join(settings.steps) or 'pass', ' ' * 4),
    )
    return head + _body(settings)


def _body(settings: ScriptSettings) -> str:
    if settings.task == 'classify':
        return CLASSIFIER.format()
    if settings.task == 'semantic':
        binary = f'logits[0] > {settings.threshold}'
        return SEGMENTOR.format(
            labels='logits.argmax(0)' if settings.threshold is None else f'({binary}) * 1'
        )
    has_masks = settings.task == 'instance'
    return DETECTOR.format(
        masks=', masks' if has_masks else '',
        threshold=settings.threshold,
        area=AREA.format(mask_threshold=settings.mask_threshold) if has_masks else '',
    )
