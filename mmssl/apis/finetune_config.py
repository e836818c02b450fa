"""The config that ``mmssl finetune`` writes: about 20 lines, inheriting from ``_base_/finetune``."""

import math
from dataclasses import dataclass
from typing import Any

from mmssl.apis.finetune_architecture import Backbone
from mmssl.apis.finetune_data import TaskData, anchor_scales, pyramid_scale, scaled_size
from mmssl.apis.finetune_images import ImageSettings

# images of a step on a CPU, for which the rates of the base configs are made; passes over the data, and the
# longest side of images, on a CPU and on a GPU
BATCH_SIZES = {'classify': 32, 'detect': 4, 'instance': 4, 'semantic': 6, 'sam-lora': 2}
PASSES = {'classify': 30, 'detect': 30, 'instance': 30, 'semantic': 60, 'sam-lora': 10}
LONGEST = {'detect': (480, 1000), 'instance': (480, 1000), 'semantic': (480, 1024)}
MIN_ITERS, MAX_ITERS = 300, 20000
RATES = {'classify': 5e-4, 'detect': 5e-4, 'instance': 2e-4, 'semantic': 1e-3, 'sam-lora': 2e-4}
VIT_RATES = {'classify': 5e-4, 'detect': 2e-4, 'instance': 2e-4, 'semantic': 2e-4}
LINEAR_RATE = 1e-2
LAYER_DECAY = 0.75
# maps of the feature pyramid
LEVELS = 5
GIB_PER_BATCH = 16
MAX_BATCHES = 4
MAX_COLUMNS = 100
CROPS = ('mmssl.LoadRandomResizedCrop', 'mmssl.LoadCenterCrop')
HEADS = {'classify': 'linear classifier', 'detect': 'R-FCN', 'instance': 'Mask R-CNN', 'semantic': 'GCN'}


@dataclass
class Budget:
    """Batch size, length and image sizes of a training run.

    Attributes:
        batch_size: Images of a step.
        iters: Number of steps.
        longest: Longest side of the images in pixels; the side of the crop for classification.
    """

    batch_size: int
    iters: int
    longest: int


def choose_budget(
    task: str, num_images: int, backbone: Backbone, gpu_gib: float, given: dict[str, int | None]
) -> Budget:
    """Choose batch size and length.

    The batch is that of the recipe; on a GPU as many times as large as it has 16 GiB, four times at most; and
    never more than the images. The length is 30 passes over the images (60 for semantic segmentation), but at
    least 300 and at most 20000 steps.

    Args:
        task: The task.
        num_images: Number of training images.
        backbone: The backbone.
        gpu_gib: Memory of the GPU in GiB; 0 without one.
        given: 'batch_size', 'epochs', 'iters' and 'size' as the caller states them, or None.
    """
    factor = min(MAX_BATCHES, max(1, int(gpu_gib // GIB_PER_BATCH)))
    batch_size = given.get('batch_size') or min(num_images, BATCH_SIZES[task] * factor)
    iters = given.get('iters')
    epochs = given.get('epochs')
    if not iters and epochs:
        iters = math.ceil(epochs * num_images / batch_size)
    if not iters:
        iters = min(MAX_ITERS, max(MIN_ITERS, round(PASSES[task] * num_images / batch_size)))
    longest = given.get('size')
    if not longest:
        sides = LONGEST.get(task)
        longest = sides[gpu_gib > 0] if sides else backbone.image_size or 224
    return Budget(batch_size, iters, longest)


def config_text(task: str, data: TaskData, backbone: Backbone, budget: Budget, source: dict[str, Any]) -> str:
    """Return the text of the config.

    Args:
        task: The task, or the recipe if it is not the usual one.
        data: Its data.
        backbone: The backbone.
        budget: Batch size and length.
        source: 'checkpoint', 'work_dir', 'freeze' for a frozen backbone, and 'seed'.
    """
    lines = [
        f'# {_title(task, data)} {source["checkpoint"]}, written by `mmssl finetune`.',
        f'# Edit it and train it again: mmssl train {source["work_dir"]}/config.py',
        f'# Data: {data.labels.root}, {len(data.split.train)} training and {len(data.split.val)} validation '
        f'images; {data.split.rule}.',
        f"_base_ = ['mmssl::_base_/finetune/{task.replace('-', '_')}.py']",
        f'work_dir = {source["work_dir"]!r}',
        *([] if task == 'sam-lora' else [_assign('metainfo', dict(classes=tuple(data.classes)))]),
        *_WRITERS[task](data, backbone, budget),
        *_schedule(task, backbone, budget, source['freeze']),
        f'randomness = dict(seed={source["seed"]})',
    ]
    return '\n'.join(lines) + '\n'


def _title(task: str, data: TaskData) -> str:
    if task == 'sam-lora':
        return 'Masks from boxes, by low-rank updates of'
    return f'{HEADS[task]} for {len(data.classes)} classes on the backbone of'


def _schedule(task: str, backbone: Backbone, budget: Budget, freeze: bool) -> list[str]:
    rates = VIT_RATES if backbone.kind in ('vit', 'swin') else RATES
    base = LINEAR_RATE if freeze and task == 'classify' else rates[task]
    rate = float(f'{base * budget.batch_size / BATCH_SIZES[task]:.6g}')
    warmup = max(1, budget.iters // 20)
    wrapper: dict[str, Any] = dict(optimizer=dict(lr=rate))
    # random weights need the full rate in all layers
    if backbone.is_vit and backbone.is_pretrained and task == 'classify' and not freeze:
        wrapper['paramwise_cfg'] = dict(layer_decay_rate=LAYER_DECAY)
    return [
        f'# the rate of the recipe, {base:g} for {BATCH_SIZES[task]} images, scaled to {budget.batch_size}',
        _assign('optim_wrapper', wrapper),
        f'train_cfg = dict(max_iters={budget.iters}, val_interval={budget.iters})',
        'param_scheduler = [',
        f"    dict(type='LinearLR', start_factor=0.1, begin=0, end={warmup}, by_epoch=False),",
        f"    dict(type='CosineAnnealingLR', eta_min=0, begin={warmup}, end={max(budget.iters, warmup + 1)}, "
        'by_epoch=False),',
        ']',
        f'default_hooks = dict(logger=dict(interval={min(20, budget.iters)}), '
        f'checkpoint=dict(interval={budget.iters}))',
    ]


def _own(backbone: Backbone) -> dict[str, Any]:
    return {'_delete_': True, **backbone.settings}


def _detect(data: TaskData, backbone: Backbone, budget: Budget) -> list[str]:
    stride = backbone.strides[0]
    scales = anchor_scales(data, budget.longest, stride)
    head: dict[str, Any] = dict(in_channels=backbone.channels[-1], num_classes=len(data.classes))
    if backbone.strides[-1] != 16:
        head['stride'] = backbone.strides[-1]
    anchors = dict(scales=scales, strides=[stride])
    model = dict(
        **_preprocessor(backbone),
        backbone=_own(backbone),
        rpn_head=dict(in_channels=backbone.channels[0], anchor_generator=anchors),
        roi_head=dict(bbox_head=head),
    )
    sides = ', '.join(f'{scale * stride:g}' for scale in scales)
    return [
        f'# anchors of {sides} pixels, the sizes of the boxes',
        _assign('model', model),
        *_coco(data, backbone, budget),
    ]


def _instance(data: TaskData, backbone: Backbone, budget: Budget) -> list[str]:
    count = len(data.classes)
    first: float = backbone.strides[0]
    neck: dict[str, Any] = dict(in_channels=backbone.channels)
    if backbone.is_vit:
        first /= 4
        neck = dict(_delete_=True, type='mmssl.SimpleFeaturePyramid', in_channels=backbone.channels[-1])
    strides = [_plain(first * 2**level) for level in range(LEVELS)]
    scale = pyramid_scale(data, budget.longest, strides)
    extractors = {
        f'{name}_roi_extractor': dict(featmap_strides=strides[:-1])
        for name in (('bbox', 'mask') if strides[0] != 4 else ())
    }
    heads = dict(bbox_head=dict(num_classes=count), mask_head=dict(num_classes=count))
    model = dict(
        **_preprocessor(backbone),
        backbone=_own(backbone),
        neck=neck,
        rpn_head=dict(anchor_generator=dict(scales=[scale], strides=strides)),
        roi_head=dict(**extractors, **heads),
    )
    sides = ', '.join(f'{scale * stride:g}' for stride in strides)
    return [
        f'# anchors of {sides} pixels, the sizes of the boxes',
        _assign('model', model),
        *_coco(data, backbone, budget),
    ]


def _preprocessor(backbone: Backbone) -> dict[str, Any]:
    """Return mean and std, and the padding that patches of other sizes than 4, 8, 16 and 32 need."""
    unit = 2 * backbone.strides[0]
    settings = _normalization(backbone)
    if backbone.is_vit and 32 % unit:
        settings['pad_size_divisor'] = unit
    return dict(data_preprocessor=settings) if settings else {}


def _normalization(backbone: Backbone) -> dict[str, Any]:
    return backbone.images.preprocessor if backbone.images else {}


def _plain(value: float) -> float:
    return int(value) if value == int(value) else value


def _coco(data: TaskData, backbone: Backbone, budget: Budget) -> list[str]:
    scale = scaled_size(data.size, budget.longest)
    images = data.labels.image_root
    return [
        *_pipelines(backbone, dict(Resize=dict(scale=scale))),
        f'train_dataloader = dict(batch_size={budget.batch_size}, dataset=dict(',
        f'    ann_file={data.train_file!r}, metainfo=metainfo,',
        f'    data_prefix=dict(img={images!r}), pipeline=train_pipeline))',
        'val_dataloader = dict(dataset=dict(',
        f'    ann_file={data.folder + "/val.json"!r}, metainfo=metainfo,',
        f'    data_prefix=dict(img={images!r}), pipeline=test_pipeline))',
        'test_dataloader = val_dataloader',
        f'val_evaluator = dict(ann_file={data.folder + "/val.json"!r})',
        'test_evaluator = val_evaluator',
    ]


def _sam_lora(data: TaskData, backbone: Backbone, budget: Budget) -> list[str]:
    preprocessor = dict(pad_size_divisor=budget.longest, **_normalization(backbone))
    images = data.labels.image_root
    frozen = dict(tune='decoder') if backbone.kind == 'sam-frozen' else {}
    return [
        _assign('data_preprocessor', preprocessor),
        _assign('model', dict(data_preprocessor=preprocessor, model=backbone.settings, **frozen)),
        *([f'load_from = {backbone.checkpoint!r}'] if backbone.checkpoint else []),
        *_pipelines(backbone, {'mmssl.ResizeLongest': dict(scale=budget.longest)}),
        f'train_dataloader = dict(batch_size={budget.batch_size}, dataset=dict(',
        f'    ann_file={data.train_file!r},',
        f'    data_prefix=dict(img_path={images!r}), pipeline=train_pipeline))',
        'val_dataloader = dict(dataset=dict(',
        f'    ann_file={data.folder + "/val.json"!r},',
        f'    data_prefix=dict(img_path={images!r}), pipeline=test_pipeline))',
        'test_dataloader = val_dataloader',
    ]


def _semantic(data: TaskData, backbone: Backbone, budget: Budget) -> list[str]:
    scale = scaled_size(data.size, budget.longest)
    unit = 4 * backbone.strides[0] if backbone.is_vit else 32
    crop = max(unit, min(512 if budget.longest > 512 else 256, scale[1]) // unit * unit)
    preprocessor: dict[str, Any] = dict(size=(crop, crop), **_normalization(backbone))
    sizes: dict[str, dict[str, Any]] = dict(
        RandomResize=dict(scale=scale), RandomCrop=dict(crop_size=(crop, crop)), Resize=dict(scale=scale)
    )
    if backbone.images is not None:  # colors are changed in RGB only
        sizes['PhotoMetricDistortion'] = dict(type='mmssl.BandJitter')
    model = dict(
        backbone=_own(backbone),
        decode_head=dict(in_channels=backbone.channels, num_classes=len(data.classes)),
    )
    if backbone.is_vit:
        preprocessor['test_cfg'] = dict(size_divisor=unit)
        width = backbone.channels[0]
        model['neck'] = dict(type='Feature2Pyramid', embed_dim=width, rescales=[4, 2, 1, 0.5])
    subset = f'ann_file={data.train_file!r}, ' if data.train_file else ''
    return [
        _assign('data_preprocessor', preprocessor),
        _assign('model', dict(data_preprocessor=preprocessor, **model)),
        *_pipelines(backbone, sizes),
        f'train_dataloader = dict(batch_size={budget.batch_size}, dataset=dict(',
        f'    data_root={data.folder!r}, {subset}metainfo=metainfo, pipeline=train_pipeline))',
        'val_dataloader = dict(dataset=dict(',
        f'    data_root={data.folder!r}, metainfo=metainfo, pipeline=test_pipeline))',
        'test_dataloader = val_dataloader',
    ]


def _classify(data: TaskData, backbone: Backbone, budget: Budget) -> list[str]:
    model: dict[str, Any] = dict(
        backbone=_own(backbone), head=dict(in_channels=backbone.channels[-1], num_classes=len(data.classes))
    )
    if not backbone.is_vit:
        model['neck'] = dict(type='GlobalAveragePooling')
    root = data.labels.image_root
    return [
        _assign('data_preprocessor', dict(num_classes=len(data.classes), **_normalization(backbone))),
        _assign('model', model),
        *_pipelines(backbone, {crop: dict(scale=budget.longest) for crop in CROPS}),
        f'train_dataloader = dict(batch_size={budget.batch_size}, dataset=dict(',
        f'    data_root={root!r}, ann_file={data.train_file!r},',
        '    metainfo=metainfo, pipeline=train_pipeline))',
        'val_dataloader = dict(dataset=dict(',
        f'    data_root={root!r}, ann_file={data.folder + "/val.txt"!r},',
        '    metainfo=metainfo, pipeline=test_pipeline))',
        'test_dataloader = val_dataloader',
    ]


def _pipelines(backbone: Backbone, sizes: dict[str, dict[str, Any]]) -> list[str]:
    """Return the pipelines of the base with other settings of some transforms, by their types."""
    if backbone.images is None:
        name, lines = 'sizes', [f'sizes = {sizes!r}  # in pixels']
    else:
        name, lines = 'changes', _image_changes(backbone.images, sizes)
    return [
        *lines,
        *(
            f"{pipeline} = [dict(step, **{name}.get(step['type'], {{}})) for step in _base_.{pipeline}]"
            for pipeline in ('train_pipeline', 'test_pipeline')
        ),
    ]


def _image_changes(images: ImageSettings, sizes: dict[str, dict[str, Any]]) -> list[str]:
    """Return what differs from the base for images that are not 8-bit RGB."""
    loaders = [name for name in sizes if name in CROPS] or ['mmssl.LoadImage']
    entries = {name: f'dict(reading, **{sizes[name]!r})' if name in sizes else 'reading' for name in loaders}
    entries.update((name, repr(size)) for name, size in sizes.items() if name not in loaders)
    return [
        '# how images are read, and other settings of transforms of the base, sizes in pixels',
        _assign('reading', images.loader),
        'changes = {',
        *(f'    {name!r}: {entry},' for name, entry in entries.items()),
        '}',
    ]


def _assign(name: str, value: dict[str, Any]) -> str:
    return f'{name} = {_code(value, 0, len(name) + 3)}'


def _code(value: Any, indent: int, used: int) -> str:
    """Return a value as a config writes it: ``dict(...)``, on several lines if it does not fit into one."""
    if not isinstance(value, dict):
        return repr(value)
    line = f'dict({", ".join(f"{key}={_code(each, 0, -1000)}" for key, each in value.items())})'
    if indent + used + len(line) <= MAX_COLUMNS:
        return line
    inner = ' ' * (indent + 4)
    parts = [f'{inner}{key}={_code(each, indent + 4, len(key) + 2)},\n' for key, each in value.items()]
    return f'dict(\n{"".join(parts)}{" " * indent})'


_WRITERS = {
    'classify': _classify,
    'detect': _detect,
    'instance': _instance,
    'semantic': _semantic,
    'sam-lora': _sam_lora,
}
