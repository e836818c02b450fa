"""The test pipeline of a config as lines of Python that need only Pillow."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmssl.errors import UserError

# transforms that change no pixel
PASSIVE = ('LoadImage', 'LoadImageFromFile', 'LoadAnnotations', 'LoadLabelMap', 'LoadPanopticAnnotations')
RESIZED = 'resized = image.size'
PACKERS = ('PackInputs', 'PackDetInputs', 'PackSegInputs')


def image_lines(pipeline: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the lines that turn ``image``, a Pillow image, into the input of the network.

    Args:
        pipeline: Transforms of the test dataset.

    Raises:
        UserError: There is no such line for a transform.
    """
    lines = []
    for step in pipeline:
        name = step['type'] if isinstance(step['type'], str) else step['type'].__name__
        name = name.rpartition('.')[2]
        if name in PASSIVE:
            if any(step.get(key) is not None for key in ('value_range', 'channels', 'pages', 'channel_axis')):
                raise UserError(f'{name} reads {_settings(step)}, which {_NO_SCRIPT}')
        elif name in _STEPS:
            lines += _STEPS[name](step)
        elif name not in PACKERS:
            raise UserError(f'the test pipeline has {name}, which {_NO_SCRIPT}')
    return lines


def largest_size(pipeline: Sequence[Mapping[str, Any]]) -> tuple[int, int] | None:
    """Return (height, width) that no image exceeds after the pipeline; None if there is no such limit."""
    size = None
    for step in pipeline:
        name = str(step['type']).rpartition('.')[2]
        if name == 'Resize' and 'scale' in step:
            width, height = _pair(step['scale'])
            size = (max(width, height),) * 2 if step.get('keep_ratio') else (height, width)
        elif name == 'LoadCenterCrop':
            size = (step.get('scale', 224),) * 2
        elif name == 'CenterCrop':
            size = _pair(step['crop_size'])
        elif name == 'Pad' and step.get('size'):
            size = tuple(step['size'])[::-1]
    return size


_NO_SCRIPT = 'the script beside the graph cannot do; --no-script (in Python script=False) leaves it out'


def _settings(step: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in step.items() if key != 'type'}


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


def _resize(step: Mapping[str, Any]) -> list[str]:
    backend, interpolation = step.get('backend', 'cv2'), step.get('interpolation', 'bilinear')
    if 'scale' not in step or (backend, interpolation) not in RESIZERS:
        raise UserError(f'Resize with {_settings(step)}: {_NO_SCRIPT}')
    call = RESIZERS[backend, interpolation]
    width, height = _pair(step['scale'])
    if not step.get('keep_ratio'):
        return [f'image = {call.format(f"({width}, {height})")}', RESIZED]
    return [
        f'scale = min({max(width, height)} / max(image.size), {min(width, height)} / min(image.size))',
        f'image = {call.format("tuple(int(edge * scale + 0.5) for edge in image.size)")}',
        RESIZED,
    ]


def _resize_edge(step: Mapping[str, Any]) -> list[str]:
    backend, interpolation = step.get('backend', 'cv2'), step.get('interpolation', 'bilinear')
    if step.get('edge', 'short') != 'short' or (backend, interpolation) not in RESIZERS:
        raise UserError(f'ResizeEdge with {_settings(step)}: {_NO_SCRIPT}')
    size = f'tuple(int({step["scale"]} * edge / min(image.size)) for edge in image.size)'
    return [f'image = {RESIZERS[backend, interpolation].format(size)}']


def _load_center_crop(step: Mapping[str, Any]) -> list[str]:
    side = step.get('scale', 224)
    short_edge = round(side / step.get('ratio', 224 / 256))
    call = RESIZERS['pillow', step.get('interpolation', 'bicubic')]
    size = f'tuple(int({short_edge} * edge / min(image.size)) for edge in image.size)'
    return [f'image = {call.format(size)}', *_crop_lines(side, side)]


def _center_crop(step: Mapping[str, Any]) -> list[str]:
    height, width = _pair(step['crop_size'])
    return _crop_lines(height, width)


def _crop_lines(height: int, width: int) -> list[str]:
    return [
        f'left, top = round((image.width - {width}) / 2), round((image.height - {height}) / 2)',
        f'image = image.crop((left, top, left + {width}, top + {height}))',
    ]


def _pad(step: Mapping[str, Any]) -> list[str]:
    value = step.get('pad_val', 0)
    value = value.get('img', 0) if isinstance(value, Mapping) else value
    value = (value,) * 3 if isinstance(value, (int, float)) else tuple(value)[::-1]  # of BGR pixels
    if not step.get('size') or step.get('padding_mode', 'constant') != 'constant':
        raise UserError(f'Pad with {_settings(step)}: {_NO_SCRIPT}')
    width, height = _pair(step['size'])
    return pad_lines(height, width, tuple(int(channel) for channel in value))


def pad_lines(height: int, width: int, color: tuple[int, ...]) -> list[str]:
    """Return the lines that pad an image at the bottom and at the right with an RGB color."""
    return [
        f"canvas = Image.new('RGB', (max(image.width, {width}), max(image.height, {height})), {color})",
        'canvas.paste(image)',
        'image = canvas',
    ]


# backend and interpolation -> the call, with the place of (width, height)
RESIZERS = {
    ('cv2', 'bilinear'): 'resize(image, {})',
    ('pillow', 'nearest'): 'image.resize({}, Image.Resampling.NEAREST)',
    ('pillow', 'bilinear'): 'image.resize({}, Image.Resampling.BILINEAR)',
    ('pillow', 'bicubic'): 'image.resize({}, Image.Resampling.BICUBIC)',
    ('pillow', 'lanczos'): 'image.resize({}, Image.Resampling.LANCZOS)',
}
_STEPS = {
    'Resize': _resize,
    'ResizeEdge': _resize_edge,
    'LoadCenterCrop': _load_center_crop,
    'CenterCrop': _center_crop,
    'Pad': _pad,
}
