"""Time of R-FCN's forward pass by the number of RoIs, and against mmdet's Faster R-CNN C4 on the same ResNet-50.

    python tools/benchmarks/rfcn.py
    python tools/benchmarks/rfcn.py --height 150 --width 250 --rounds 2 --peer-rounds 1 --no-memory       #
    does it run

One image, float32, the 20 classes of VOC, both detectors from their configs with random weights. A forward
pass is the backbone, the convolutions of the RPN, and scores and boxes of the same random RoIs; selecting
proposals and suppressing detections is the same for both and left out. Peak memory is that of a process of
its own.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
OURS = 'rfcn/rfcn_resnet50_1xb2-ohem-110000i_voc0712.py'
PEER = 'pascal_voc/faster-rcnn_r50-caffe-c4_ms-18k_voc0712.py'


def make_rois(count: int, height: int, width: int) -> torch.Tensor:
    """(N, 5) RoIs of one image, 16 to 300 pixels a side where they fit."""
    generator = torch.Generator().manual_seed(count)
    size = torch.rand(count, 2, generator=generator) * 284 + 16
    size = torch.minimum(size, torch.tensor([width, height]) - 1.0)
    corner = torch.rand(count, 2, generator=generator) * (torch.tensor([width, height]) - size)
    return torch.cat((torch.zeros(count, 1), corner, corner + size), 1)


class Detector:
    """A detector of a config, whose forward pass takes RoIs.

    Args:
        ours: R-FCN, else mmdet's Faster R-CNN C4.
        height, width: of the image.
    """

    def __init__(self, ours: bool, height: int, width: int):
        import mmdet
        from mmengine.config import Config
        from mmengine.registry import MODELS, init_default_scope

        from mmssl.hosts import patches

        patches.apply()
        init_default_scope('mmdet')
        root = ROOT / 'configs' if ours else Path(mmdet.__file__).parent / '.mim/configs'
        cfg = Config.fromfile(root / (OURS if ours else PEER))
        torch.manual_seed(0)
        self.model = MODELS.build(
            {key: value for key, value in cfg.model.items() if key != 'data_preprocessor'}
        ).eval()
        self.ours, self.size = ours, (height, width)
        self.image = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0))

    @torch.inference_mode()
    def __call__(self, count: int) -> list[torch.Tensor]:
        """Scores and boxes of ``count`` RoIs, and the maps of the RPN."""
        maps = self.model.extract_feat(self.image)
        rpn = self.model.rpn_head(maps[:1])
        out = self.model.roi_head._bbox_forward(maps[-1:], make_rois(count, *self.size))
        return [out['cls_score'], out['bbox_pred'], *rpn[0]]


def main() -> None:
    """Time, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--height', type=int, default=600)
    parser.add_argument('--width', type=int, default=1000)
    parser.add_argument('--rounds', type=int, default=9)
    parser.add_argument('--peer-rounds', type=int, default=3)
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--out', default=str(ROOT / 'docs/benchmarks/rfcn.md'))
    parser.add_argument(
        '--no-memory', action='store_true', help='leave the processes out that measure memory'
    )
    parser.add_argument('--memory', nargs=2, metavar=('SIDE', 'ROIS'), help=argparse.SUPPRESS)
    args = parser.parse_args()
    from timing import medians, peak_resident, report

    torch.set_num_threads(args.threads)
    if args.memory:
        Detector(args.memory[0] == 'ours', args.height, args.width)(int(args.memory[1]))
        print(f'MiB {peak_resident():.0f}')
        return

    def memory(side: str, count: int) -> str:
        if args.no_memory:
            return '-'
        done = subprocess.run(
            [
                sys.executable,
                __file__,
                '--memory',
                side,
                str(count),
                '--threads',
                str(args.threads),
                '--height',
                str(args.height),
                '--width',
                str(args.width),
            ],
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.split('MiB ')[1].strip()

    ours, peer = Detector(True, args.height, args.width), Detector(False, args.height, args.width)
    alone = medians({count: lambda count=count: ours(count) for count in (100, 300, 1000, 2000)}, args.rounds)
    lines = ['| R-FCN, RoIs | ms | of that at 100 |', '|---|---|---|']
    lines += [f'| {count} | {1e3 * time:.0f} | {time / alone[100]:.3f} |' for count, time in alone.items()]
    lines += [
        '',
        '| RoIs | R-FCN ms | Faster R-CNN C4 ms | times faster | peak MiB, R-FCN | peak MiB, C4 |',
        '|---|---|---|---|---|---|',
    ]
    for count in (300, 1000):
        times = medians(
            {'ours': lambda count=count: ours(count), 'peer': lambda count=count: peer(count)},
            args.peer_rounds,
        )
        lines.append(
            f'| {count} | {1e3 * times["ours"]:.0f} | {1e3 * times["peer"]:.0f} | {times["peer"] / times["ours"]:.1f} | '
            f'{memory("ours", count)} | {memory("peer", count)} |'
        )
    report(
        args.out,
        'R-FCN by the number of RoIs, and Faster R-CNN C4',
        lines,
        f'one image of {args.height}x{args.width}, {args.threads} threads, {args.rounds} and {args.peer_rounds} interleaved rounds',
        'onedl-mmdetection',
        'onedl-mmcv',
    )


if __name__ == '__main__':
    main()
