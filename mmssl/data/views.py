"""Several random views of one image, from a single read and decode of its file."""

# mmpretrain's MultiView runs a pipeline per view, through Pillow and back, on the fully decoded image. Here
# all views are drawn first, the file is decoded once, at the smallest scale that the crops allow, and the
# views stay uint8.

from mmcv.transforms import BaseTransform

from mmssl.data.arguments import check_reducing_gap
from mmssl.data.crops import crop_resized, decode_reduction
from mmssl.data.images import MAX_PIXELS
from mmssl.data.reader import READER_SETTINGS, ImageReader, decode_pixels
from mmssl.data.view_specs import DEFAULTS, PRESETS, ViewSpec
from mmssl.hints import nearest
from mmssl.registry import TRANSFORMS

# overrides of these without the prefix 'local_' apply to the large views only
_GEOMETRY = ('num', 'scale', 'crop_ratio_range', 'aspect_ratio_range')


@TRANSFORMS.register_module()
class LoadViews(BaseTransform):
    """Load several augmented views of an image.

    ``results['img']`` becomes a list of the views, grouped by type, (H, W, 3) uint8 BGR each, or (H, W, C)
    float32 from 0 to 255 with a ``value_range``, see :class:`mmssl.data.reader.ImageReader`. ``PackInputs``
    and ``default_collate`` turn it into a list of batches. All draws come from Python's global ``random``,
    which the data loader seeds for each sample.

    ``dict(type='mmssl.LoadViews', preset='dino', scale=64, local_scale=32, num_local=4)``

    Required keys: ``img_path``. Added keys: ``img``, ``img_shape`` (of the first view), ``ori_shape``,
    ``crop_boxes`` (one per view, as ``crop_box`` of
    :class:`mmssl.data.transforms.LoadRandomResizedCrop`).

    Args:
        preset: Name in :data:`mmssl.data.view_specs.PRESETS`.
        views: Instead of a preset, one dict of :class:`mmssl.data.view_specs.ViewSpec`'s arguments per type
            of view.
        num_local: Number of small views, for presets with small views.
        reducing_gap: A JPEG is decoded at 1/k if all crops then still have this many times the pixels of
            their views; None always decodes at full size.
        max_pixels: Largest image to accept, width times height.
        **overrides: Arguments of :class:`~mmssl.data.view_specs.ViewSpec`. ``scale``, ``crop_ratio_range``,
            ``aspect_ratio_range`` and ``num`` apply to the large views, everything else to all views; with
            the prefix ``local_``, they apply to the small views only. ``value_range``, ``channels``,
            ``pages`` and ``channel_axis`` are arguments of :class:`mmssl.data.reader.ImageReader`.
    """

    def __init__(
        self,
        preset: str | None = None,
        views: list[dict] | None = None,
        num_local: int | None = None,
        reducing_gap: float | None = 1.0,
        max_pixels: int = MAX_PIXELS,
        **overrides,
    ):
        reading = {key: overrides.pop(key) for key in READER_SETTINGS if key in overrides}
        self.reader = ImageReader(max_pixels, **reading)
        parameters = _view_parameters(preset, views)
        if num_local is not None:
            overrides['local_num'] = num_local
        _override(parameters, overrides, f'preset {preset!r}' if preset else 'views')
        self.specs = [ViewSpec(**keywords) for keywords in parameters]
        if not sum(spec.num for spec in self.specs):
            raise ValueError('LoadViews makes no view; give one type of view a num above 0')
        self.preset = preset
        self.reducing_gap = check_reducing_gap(reducing_gap)
        _check_changes(self.specs, self.reader, preset)

    def transform(self, results: dict) -> dict:
        """Load the views of ``results['img_path']``.

        Raises:
            BadImageError: The file is not a readable image; the message names it.
        """
        image = self.reader.open(results['img_path'], results.get('page'))
        draws = [(spec, spec.draw(image.width, image.height)) for spec in self.specs for _ in range(spec.num)]
        reduction = min(
            decode_reduction(image, draw.box, spec.size, self.reducing_gap) for spec, draw in draws
        )
        pixels = decode_pixels(image, reduction)
        # all crops first, while the decoded pixels are in the processor's cache
        crops = [
            crop_resized(image, pixels, reduction, draw.box, spec.size, spec.interpolation, interleaved=True)
            for spec, draw in draws
        ]
        views = [spec.augment(crop, draw) for (crop, _), (spec, draw) in zip(crops, draws, strict=True)]
        results['img'] = views
        results['img_shape'] = views[0].shape[:2]
        results['ori_shape'] = (image.height, image.width)
        results['crop_boxes'] = [box for _, box in crops]
        return results

    def __repr__(self) -> str:
        views = ', '.join(f'{spec.num}x{spec.width}x{spec.height}' for spec in self.specs)
        return (
            f'{type(self).__name__}(preset={self.preset!r}, views={views}, reducing_gap={self.reducing_gap})'
        )


def _check_changes(specs: list[ViewSpec], reader: ImageReader, preset: str | None) -> None:
    """Refuse changes of colors for images that are not 8-bit RGB, and of channels for unscaled values."""
    images = reader.unlike_rgb()
    for spec in specs:
        if images:
            spec.refuse_color_changes(images, preset)
        if spec.bands and isinstance(reader.value_range, str) and reader.value_range == 'raw':
            raise ValueError(
                "value_range='raw': changes of channels (bands=...) are for values from 0 to 255; give the "
                'range to the loader transform'
            )


def _view_parameters(preset: str | None, views: list[dict] | None) -> list[dict]:
    """Return copies of the parameters that either a preset or a list gives."""
    if (preset is None) == (views is None):
        raise ValueError(
            'LoadViews takes either preset=NAME or views=[dict(...), ...]; '
            f'the presets are {", ".join(PRESETS)}'
        )
    if preset is not None:
        if preset not in PRESETS:
            raise ValueError(
                f'LoadViews has no preset {preset!r}{nearest(preset, PRESETS)}; '
                f'the presets are {", ".join(PRESETS)}'
            )
        views = PRESETS[preset]
    assert views is not None
    return [dict(parameters) for parameters in views]


def _override(parameters: list[dict], overrides: dict, source: str) -> None:
    """Apply overrides to the parameters in place.

    Args:
        parameters: Arguments of each type of view.
        overrides: Arguments of :class:`LoadViews`; those with the prefix ``local_`` are applied last.
        source: Where the types of view come from, for messages.
    """
    for key in sorted(overrides, key=lambda key: key.startswith('local_')):
        is_local = key.startswith('local_')
        name = key.removeprefix('local_')
        if name not in DEFAULTS or name == 'local':
            raise ValueError(f'LoadViews has no argument {key!r}{nearest(key, _argument_names())}')
        if is_local:
            targets = [keywords for keywords in parameters if keywords.get('local')]
        elif name in _GEOMETRY:
            targets = [keywords for keywords in parameters if not keywords.get('local')]
        else:
            targets = parameters
        if not targets:
            argument = 'num_local' if key == 'local_num' else key
            raise ValueError(f'{argument}={overrides[key]!r}: {source} has no such views')
        if name == 'num' and len(targets) > 1:
            raise ValueError(
                f'num={overrides[key]!r}: {source} has {len(targets)} types of view; '
                'list them with views=[dict(num=...), ...]'
            )
        for keywords in targets:
            keywords[name] = overrides[key]


def _argument_names() -> list[str]:
    own = ['preset', 'views', 'num_local', 'reducing_gap', 'max_pixels', *READER_SETTINGS]
    return [*DEFAULTS, *(f'local_{key}' for key in DEFAULTS), *own]
