"""The small run of resume_toy on images of any source; also a program of its own."""

import argparse
import json
from pathlib import Path

import numpy as np
import resume_toy as toy
import torch
from mmengine.dist import get_rank
from mmengine.registry import TRANSFORMS
from mmengine.structures import BaseDataElement

import mmssl.registry  # noqa: F401

PIPELINE = [dict(type='mmssl.LoadRandomResizedCrop', scale=16), dict(type='ToyPack')]
URL = 'memory://toy'


@TRANSFORMS.register_module(force=True)
class ToyPack:
    def __call__(self, results):
        image = torch.from_numpy(np.ascontiguousarray(results['img'].transpose(2, 0, 1))).float() / 255
        return dict(inputs=image, data_samples=BaseDataElement(metainfo=dict(img_path=results['img_path'])))


def make_images(folder: Path) -> None:
    """Twenty images, one of which is truncated."""
    toy.make_images(folder)
    bad = folder / '07.png'
    bad.write_bytes(bad.read_bytes()[:-400])


def root_of(source: str, folder: Path) -> str:
    """The ``data_root`` of a source below ``folder``; 'memory' is filled in each process."""
    if source != 'memory':
        return str(folder / source)
    import fsspec

    files = fsspec.filesystem('memory')
    if not files.exists('/toy'):
        files.put(str(folder / 'images'), '/toy', recursive=True)
    return URL


def train(work_dir, folder, source, **options):
    dataset = dict(type='mmssl.ImageFolder', data_root=root_of(source, Path(folder)), pipeline=PIPELINE)
    hooks = [dict(type='mmssl.BadFilesHook')]
    return toy.train(work_dir, '', dataset=dataset, hooks=hooks, validate=False, **options)


if __name__ == '__main__':
    parser = argparse.ArgumentParser()
    parser.add_argument('work_dir', type=Path)
    parser.add_argument('folder', type=Path)
    parser.add_argument('sources')
    parser.add_argument('options', type=json.loads)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for source in args.sources.split(','):
        work_dir = args.work_dir / source
        result = train(work_dir, args.folder, source, **args.options)
        (work_dir / f'result{get_rank()}.json').write_text(json.dumps(result))
