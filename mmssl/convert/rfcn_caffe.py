"""R-FCN of daijifeng001/R-FCN and YuwenXiong/py-R-FCN (Caffe).

Becomes an ``mmssl.RFCN`` with a caffe-style ResNet. Read the file where Caffe is installed, and save it for
conversion, with a name for each blob::

    net = caffe.Net('test_agnostic.prototxt', 'resnet101_rfcn_final.caffemodel', caffe.TEST)
    torch.save({f'{layer}.{index}': torch.from_numpy(blob.data.copy())
                for layer, blobs in net.params.items() for index, blob in enumerate(blobs)}, 'rfcn.pth')

Everything that :mod:`mmssl.convert.rfcn` changes is changed here too, and:

* ``bn*`` and ``scale*`` become one batch norm; mean and variance are divided by the third blob, the factor
  with which they were accumulated.
* ``conv1.1``, a bias of ResNet-50 in front of a batch norm, is subtracted from the mean of that.
* ``rfcn_bbox``: snapshots of py-R-FCN are multiplied by the standard deviations of the targets
  (0.1, 0.1, 0.2, 0.2), which are divided out.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from mmssl.convert import rfcn
from mmssl.convert.keymap import Family

STDS = (0.1, 0.1, 0.2, 0.2)
# ending of a name in MXNet -> layer and blob in Caffe
NORMS = {
    '_gamma': ('scale', '0'),
    '_beta': ('scale', '1'),
    '_moving_mean': ('bn', '0'),
    '_moving_var': ('bn', '1'),
    rfcn.TRACKED: ('bn', 'num_batches_tracked'),
}
PLAIN = {'_weight': '0', '_bias': '1'}


def caffe_name(name: str) -> str:
    """Layer and blob of a name in MXNet: bn2a_branch1_gamma is scale2a_branch1.0."""
    for ending, (layer, blob) in NORMS.items():
        if name.endswith(ending):
            return f'{layer}{name.removesuffix(ending).removeprefix("bn")}.{blob}'
    layer, _, parameter = name.rpartition('_')
    return f'{"rpn_conv/3x3" if layer == "rpn_conv_3x3" else layer}.{PLAIN[f"_{parameter}"]}'


def mxnet_name(name: str) -> str:
    """Inverse of :func:`caffe_name`; names that are not Caffe's are returned unchanged."""
    layer, _, blob = name.rpartition('.')
    for ending, (norm_layer, norm_blob) in NORMS.items():
        if blob == norm_blob and layer.startswith(norm_layer):
            return f'bn{layer.removeprefix(norm_layer)}{ending}'
    endings = {index: ending for ending, index in PLAIN.items()}
    return layer.replace('rpn_conv/3x3', 'rpn_conv_3x3') + endings[blob] if blob in endings else name


def scale_boxes(weights: dict, scales: Tensor) -> None:
    """Multiply the coordinates of ``rfcn_bbox``, in the names of MXNet and without background."""
    scores, boxes = weights.get('rfcn_cls_bias'), weights.get('rfcn_bbox_bias')
    if scores is None or boxes is None:
        return
    bins = rfcn.bin_count(len(scores), len(boxes), official=False)
    for name in ('rfcn_bbox_weight', 'rfcn_bbox_bias'):
        if name in weights:
            maps = weights[name].unflatten(0, (-1, 4, bins))
            weights[name] = (maps * scales.to(maps).view(4, *[1] * (maps.dim() - 2))).flatten(0, 2)


def adapt(weights: Mapping, to_official: bool) -> dict:
    """Convert what renaming cannot, in the names of the release; see the module and ``Family.adapt``."""
    stds = torch.tensor(STDS, dtype=torch.float64)
    if to_official:
        ours = {mxnet_name(name): value for name, value in weights.items()}
        scale_boxes(ours, stds)
        blobs = {caffe_name(name): value for name, value in rfcn.adapt(ours, True).items()}
        blobs |= {
            f'{name[:-2]}.2': torch.ones(1) for name in blobs if name.startswith('bn') and name.endswith('.0')
        }
        if 'res3b_branch2a.0' in blobs:  # ResNet-50
            blobs['conv1.1'] = torch.zeros_like(blobs['bn_conv1.0'])
        return blobs
    blobs = dict(weights)
    for name in [name for name in blobs if name.startswith('bn') and name.endswith('.2')]:
        count = blobs.pop(name)
        if not bool(count != 0):
            raise ValueError(
                f'{name} is 0: the batch norm {name[:-2]} has no statistics, and its variance would be 0; '
                'save the blobs of a trained network'
            )
        for statistic in (f'{name[:-2]}.0', f'{name[:-2]}.1'):
            if statistic in blobs:
                blobs[statistic] = blobs[statistic] / count
    if 'conv1.1' in blobs and 'bn_conv1.0' in blobs:
        blobs['bn_conv1.0'] = blobs['bn_conv1.0'] - blobs.pop('conv1.1')
    # names that are not Caffe's stay unchanged and are refused later
    named = {mxnet_name(name): name for name in blobs}
    ours = rfcn.adapt({mxnet_name(name): value for name, value in blobs.items()}, False)
    scale_boxes(ours, 1 / stds)
    return {named[name] if name in named else caffe_name(name): value for name, value in ours.items()}


FAMILY = Family(
    name='rfcn-caffe',
    layouts={
        layout: [row._replace(official=caffe_name(row.official)) for row in rows]
        for layout, rows in rfcn.FAMILY.layouts.items()
        if not layout.startswith('deformable')
    },
    adapt=adapt,
)
