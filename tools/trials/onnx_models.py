"""Exported models of each kind in onnxruntime beside PyTorch, on real images.

    python tools/trials/onnx_models.py IMAGES --output docs/trials/onnx_models.md

exports a model of every config below, in full size, by ``mmssl export model``, compares both on 20 images of
the folder, and writes a row for each. Weights are random, with classification layers scaled so that the
scores of the classes differ; ``--backbone FILE`` gives those configs that have a MobileNetV2 trained weights
of it. ``--trained NAME CONFIG CHECKPOINT IMAGES`` adds a row for a trained model.
"""

import argparse
import logging
import tempfile
import warnings
from pathlib import Path
from typing import NamedTuple

import torch

from mmssl.apis import export_model, get_model
from mmssl.apis.models import read_config
from mmssl.checkpoint import save_file
from mmssl.errors import UserError

SMALL = ('test_dataloader.dataset.pipeline.1.scale=(400,240)',)
MANY = ('model.test_cfg.rcnn.score_thr=0.02',)
# factors of layers that give each class almost the same score while they are random
FACTORS = {'rpn_cls.weight': 8, 'rfcn_cls.weight': 60, 'fc_cls.weight': 60, 'conv_logits.weight': 60}


class Kind(NamedTuple):
    """A model to export."""

    name: str
    config: str
    options: tuple[str, ...] = ()


KINDS = [
    Kind('classifier', 'mmpretrain::resnet/resnet18_8xb32_in1k.py'),
    Kind('GCN', 'gcn-k7_mobilenetv2_1xb6-amp-400i_camvid-256x256'),
    Kind('DUC', 'duc_mobilenetv2_1xb6-amp-400i_camvid-256x256'),
    Kind('FCN', 'fcn_mobilenetv2_1xb6-amp-400i_camvid-256x256'),
    Kind('PSPNet', 'pspnet_mobilenetv2_1xb6-amp-400i_camvid-256x256'),
    Kind(
        'UPerNet',
        'mmseg::upernet/upernet_r18_4xb4-20k_voc12aug-512x512.py',
        ('test_dataloader.dataset.pipeline.1.scale=(256,192)', 'model.pretrained=None'),
    ),
    Kind('R-FCN', 'rfcn_mobilenetv2_1xb4-600i_bccd-480x360', MANY),
    Kind('deformable R-FCN', 'rfcn-deform_mobilenetv2_1xb4-600i_bccd-480x360', MANY),
    Kind('Faster R-CNN', 'faster-rcnn_mobilenetv2_1xb4-600i_bccd-480x360', MANY),
    Kind('Mask R-CNN', 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', MANY + SMALL),
]


def config_path(name: str) -> str:
    """Return the path of a config of this package, or of a toolbox by ``SCOPE::PATH``."""
    scope, _, path = name.rpartition('::')
    if not scope:
        return name
    return str(Path(__import__(scope).__file__).parent / '.mim/configs' / path)


def random_checkpoint(kind: Kind, backbone: str | None, path: Path) -> Path:
    """Write random weights of a model, around a trained backbone if that is a MobileNetV2."""
    torch.manual_seed(0)
    cfg, _ = read_config(config_path(kind.config))
    cfg.model.pop('pretrained', None)  # mmseg would download them
    takes_backbone = backbone and 'MobileNetV2' in cfg.model.backbone.type
    weights = get_model(cfg, pretrained=backbone if takes_backbone else None).state_dict()
    for name, value in weights.items():
        value *= next((factor for end, factor in FACTORS.items() if name.endswith(end)), 1)
    save_file({'state_dict': weights, 'meta': {}}, path)
    return path


def row(name: str, config: str, fp16: bool, **settings) -> str:
    """Export a model, and return the row of the table; failures are rows too."""
    cells = [name, f'`{Path(config).stem if "::" not in config else config}`', 'half' if fp16 else 'single']
    with tempfile.TemporaryDirectory() as folder:
        try:
            result = export_model(config_path(config), out=f'{folder}/model.onnx', fp16=fp16, **settings)
        except UserError as error:
            return f'| {" | ".join(cells)} | failed: {error} | | |'
    agreement = result.agreement
    differences = ', '.join(f'{key} {value:.1e}' for key, value in agreement.differences.items())
    cells += [str(agreement.images), str(agreement.objects or ''), differences]
    return f'| {" | ".join(cells)} |'


HEADER = """# Exported models beside PyTorch

A model of each kind, exported by `mmssl export model`, in onnxruntime {onnxruntime} beside PyTorch {torch} on
real images, written by

```
{command}
```

Weights are random unless the row says "trained", with classification layers scaled so that the scores
differ; MobileNetV2 has weights of ImageNet. The reference is `test_step` of mmdet's detectors, and the logits
of the classifier and the segmentors, of which the difference is relative to the largest one if that is above
1. Objects have the same label in both, scores within 1e-4, and boxes within 1e-4 of the longest edge; both
sort equal scores by their indices. Not counted as objects, if they have no partner, are those whose score is
within 1e-4 of `score_thr`, or of the lowest in a list that `max_per_img` ends.

| kind | config | weights | images | objects | largest difference |
|---|---|---|---|---|---|
"""


def main() -> None:
    """Run the trial."""
    import onnxruntime

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('images', help='folder of images')
    parser.add_argument('--backbone', help='checkpoint of a MobileNetV2 in the names of the toolboxes')
    parser.add_argument('--trained', nargs=4, action='append', default=[])
    parser.add_argument('--only', nargs='+', help='names of kinds')
    parser.add_argument('--half', action='store_true', help='also rows of half precision')
    parser.add_argument('--output', help='file to write')
    args = parser.parse_args()
    warnings.simplefilter('ignore')
    logging.disable(logging.WARNING)
    rows = []
    for kind in KINDS:
        if args.only and kind.name not in args.only:
            continue
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = random_checkpoint(kind, args.backbone, Path(folder) / 'weights.pth')
            for fp16 in (False, True)[: 1 + args.half]:
                settings = dict(checkpoint=checkpoint, images=args.images, options=kind.options, trust=True)
                rows.append(row(kind.name, kind.config, fp16, **settings))
                print(rows[-1], flush=True)
    for name, config, checkpoint, images in args.trained:
        rows.append(row(f'{name}, trained', config, False, checkpoint=checkpoint, images=images, trust=True))
        print(rows[-1], flush=True)
    command = 'python tools/trials/onnx_models.py IMAGES --backbone mobilenetv2.pth'
    header = HEADER.format(onnxruntime=onnxruntime.__version__, torch=torch.__version__, command=command)
    if args.output:
        Path(args.output).write_text(header + '\n'.join(rows) + '\n', encoding='utf-8')


if __name__ == '__main__':
    main()
