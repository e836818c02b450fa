"""Time of R-FCN's forward pass by the number of RoIs, and against mmdet's Faster R-CNN C4.

Both detectors have the same ResNet-50.

    python tools/benchmarks/rfcn.py
    python tools/benchmarks/rfcn.py --height 150 --width 250 --rounds 2 --peer-rounds 1 --no-memory  # a test

One image, float32, the 20 classes of VOC, both detectors from their configs with random weights. A forward
pass is the backbone, the convolutions of the RPN, and scores and boxes of the same random RoIs; selecting
proposals and suppressing detections is the same for both and left out. The time by the number of RoIs is the
sum of what all RoIs share, measured once, and of scores and boxes: the noise of the backbone is larger than
their difference. Peak memory is that of a separate process.
"""

import argparse
import sys
from pathlib import Path

import torch
from timing import (
    ROOT,
    Results,
    measured_in_child,
    medians,
    parser_of,
    peak_resident,
    report,
    table,
    use_threads,
)

sys.path.insert(0, str(ROOT))
OURS = 'rfcn/rfcn_resnet50_1xb2-ohem-110000i_voc0712.py'
PEER = 'pascal_voc/faster-rcnn_r50-caffe-c4_ms-18k_voc0712.py'


def make_rois(count: int, height: int, width: int) -> torch.Tensor:
    """Draw (N, 5) RoIs of one image with sides of 16 to 300 pixels, or of the image if that is smaller."""
    generator = torch.Generator().manual_seed(count)
    size = torch.rand(count, 2, generator=generator) * 284 + 16
    size = torch.minimum(size, torch.tensor([width, height]) - 1.0)
    corner = torch.rand(count, 2, generator=generator) * (torch.tensor([width, height]) - size)
    return torch.cat((torch.zeros(count, 1), corner, corner + size), 1)


class Detector:
    """The forward pass of a detector for a number of RoIs.

    Args:
        name: 'ours' for R-FCN, 'peer' for mmdet's Faster R-CNN C4.
        height: Height of the image.
        width: Width of the image.
    """

    def __init__(self, name: str, height: int, width: int):
        import mmdet
        from mmengine.config import Config
        from mmengine.registry import MODELS, init_default_scope

        from mmssl.hosts import patches

        patches.apply()
        init_default_scope('mmdet')
        if name == 'ours':
            cfg = Config.fromfile(ROOT / 'configs' / OURS)
        else:
            cfg = Config.fromfile(Path(mmdet.__file__).parent / '.mim/configs' / PEER)
        torch.manual_seed(0)
        settings = {key: value for key, value in cfg.model.items() if key != 'data_preprocessor'}
        self.model = MODELS.build(settings).eval()
        self.image_size = (height, width)
        self.image = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0))

    @torch.inference_mode()
    def shared(self) -> tuple[torch.Tensor, ...]:
        """Run all that does not depend on the RoIs, the RPN included, and return the feature maps."""
        maps = self.model.extract_feat(self.image)
        self.model.rpn_head(maps[:1])
        return maps

    @torch.inference_mode()
    def head(self, maps: tuple[torch.Tensor, ...], count: int) -> list[torch.Tensor]:
        """Return scores and boxes of ``count`` RoIs on feature maps."""
        out = self.model.roi_head._bbox_forward(maps[-1:], make_rois(count, *self.image_size))
        return [out['cls_score'], out['bbox_pred']]

    def __call__(self, count: int) -> list[torch.Tensor]:
        """Return scores and boxes of ``count`` RoIs."""
        return self.head(self.shared(), count)


def main() -> None:
    """Measure, print and write."""
    parser = parser_of(__doc__, 'rfcn', rounds=9)
    parser.add_argument('--height', type=int, default=600)
    parser.add_argument('--width', type=int, default=1000)
    parser.add_argument('--peer-rounds', type=int, default=3, help='rounds against the peer (default: 3)')
    parser.add_argument('--child', nargs=2, metavar=('DETECTOR', 'ROIS'), help=argparse.SUPPRESS)
    args = parser.parse_args()
    use_threads(args.threads)
    if args.child:
        name, count = args.child
        Detector(name, args.height, args.width)(int(count))
        print(peak_resident())
        return

    def memory(name: str, count: int) -> str:
        if args.no_memory:
            return '-'
        options = ('--threads', args.threads, '--height', args.height, '--width', args.width)
        return f'{measured_in_child(name, count, *options):.0f}'

    results = Results()
    detectors = {name: Detector(name, args.height, args.width) for name in ('ours', 'peer')}
    ours, counts = detectors['ours'], (100, 300, 1000, 2000)
    maps = ours.shared()
    heads = medians(
        {str(count): lambda count=count: ours.head(maps, count) for count in counts}, 3 * args.rounds
    )
    shared = medians({'shared': ours.shared}, args.rounds)['shared']
    rows = []
    for count, seconds_of_head in heads.items():
        ratio = (shared + seconds_of_head) / (shared + heads['100'])
        results[f'{count} RoIs alone'] = {'time relative to 100 RoIs': ratio}
        milliseconds = (f'{1e3 * value:.1f}' for value in (seconds_of_head, shared + seconds_of_head))
        rows.append([count, *milliseconds, f'{ratio:.3f}'])
    lines = table(['RoIs of R-FCN', 'scores and boxes, ms', 'whole, ms', 'time relative to 100 RoIs'], rows)
    rows = []
    for count in (300, 1000):
        calls = {name: lambda count=count, call=call: call(count) for name, call in detectors.items()}
        seconds = medians(calls, args.peer_rounds)
        faster = seconds['peer'] / seconds['ours']
        results[f'{count} RoIs'] = {'times faster than Faster R-CNN C4': faster}
        times = [f'{1e3 * seconds[name]:.0f}' for name in ('ours', 'peer')]
        rows.append([count, *times, f'{faster:.1f}', memory('ours', count), memory('peer', count)])
    header = ['RoIs', 'R-FCN, ms', 'Faster R-CNN C4, ms', 'times faster']
    lines += table([*header, 'peak MiB, R-FCN', 'peak MiB, C4'], rows)
    settings = (
        f'one image of {args.height}x{args.width}, {args.rounds} and {args.peer_rounds} interleaved rounds'
    )
    title = 'R-FCN by the number of RoIs, and Faster R-CNN C4'
    report(args, title, lines, results, settings, ('onedl-mmdetection', 'onedl-mmcv'))


if __name__ == '__main__':
    main()
