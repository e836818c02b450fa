"""Two training steps and a prediction of every method on fake CUDA tensors: no mixed devices, few host syncs.

The attribute ``host_syncs`` of a method declares how often its lines may make the host wait for the GPU in a
training step, from the loss to the optimizer's step; a table of docs/speed.md lists them.
"""

import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from fake_cuda import fake_cuda, on_cpu, on_cuda
from mmengine.config import Config
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import DefaultScope
from mmengine.structures import BaseDataElement, InstanceData, PixelData

from mmssl.ops import switch
from mmssl.registry import MODELS
from mmssl.selfsup.base import SelfSupervisor
from mmssl.selfsup.small import ARCH, small_settings_of_methods

ROOT = Path(__file__).parents[1]
SMALL = small_settings_of_methods()
MODELS.import_from_location()
METHODS = sorted(name for name in SMALL if issubclass(MODELS.module_dict[name], SelfSupervisor))


@pytest.fixture(autouse=True)
def no_triton(monkeypatch):
    """Triton's kernels need a real device."""
    monkeypatch.setattr(switch, 'HAS_TRITON', False)


def steps(model, loss: Callable[[], torch.Tensor], syncs, count: int = 2) -> list[tuple[torch.Tensor, dict]]:
    """Losses and host syncs of training steps; gradients reach parameters on the device alone."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, foreach=True)
    if hasattr(model, 'attach'):
        model.attach(optimizer)
    results = []
    for _ in range(count):
        syncs.clear()
        value = loss()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        assert any(parameter.grad is not None for parameter in parameters)
        results.append((value, dict(syncs)))
    return results


def seeded(run: Callable) -> Callable:
    """The function, with the same random draws in every call."""

    def call(*args):
        torch.manual_seed(0)
        random.seed(0)
        return run(*args)

    return call


@pytest.mark.filterwarnings('ignore:.*is not attached to the optimizer')
@pytest.mark.parametrize('name', METHODS)
def test_methods_wait_no_more_than_they_declare_and_lose_what_they_lose_on_the_cpu(name):
    torch.manual_seed(0)
    model = MODELS.build(dict(copy.deepcopy(SMALL[name].settings), type=f'mmssl.{name}')).train()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    run = seeded(SMALL[name].run)
    if hasattr(model, 'set_schedule'):
        model.set_schedule(1, 10)
    expected = run(copy.deepcopy(model), images)
    with fake_cuda() as syncs:
        model, images = on_cuda(model), on_cuda(images)
        results = steps(model, lambda: run(model, images), syncs)
        for value, waits in results:
            assert value.is_cuda and sum(waits.values()) <= model.host_syncs, waits
        torch.testing.assert_close(on_cpu(results[0][0]), expected, rtol=1e-4, atol=1e-5)
        with torch.no_grad():
            features = model.eval()(images, mode='tensor')
    assert all(part.is_cuda for part in (features if isinstance(features, (tuple, list)) else [features]))


class Case(NamedTuple):
    """A system that trains on annotated images.

    Attributes:
        title: Its name in docs/speed.md.
        config: Smoke config with the model.
        changes: Changes of ``model``.
        samples: Ground truth of two images of the size that the config trains on.
        toolbox_syncs: How often mmdet or mmseg waits at most, which depends on what it samples.
    """

    title: str
    config: str
    changes: dict
    samples: Callable[[], list[BaseDataElement]]
    toolbox_syncs: int = 0


META = dict(
    img_shape=(64, 64), ori_shape=(64, 64), pad_shape=(64, 64), scale_factor=(1.0, 1.0), img_path='a.jpg'
)


def squares(*sides: int) -> torch.Tensor:
    """(N, 64, 64) bool, squares of these sides that begin at pixel (8, 8)."""
    masks = torch.zeros(len(sides), 64, 64, dtype=torch.bool)
    for mask, side in zip(masks, sides, strict=True):
        mask[8 : 8 + side, 8 : 8 + side] = True
    return masks


def prompted() -> list[BaseDataElement]:
    """More masks than are trained."""
    samples = []
    for masks in (squares(20, 24, 28, 32, 36), squares(16)):
        samples.append(BaseDataElement(metainfo=META))
        samples[-1].gt_instances = InstanceData(masks=masks)
    return samples


def detected() -> list[BaseDataElement]:
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    samples = []
    for sides in ((20, 40), (30,)):
        boxes = torch.tensor([[8.0, 8.0, 8.0 + side, 8.0 + side] for side in sides])
        sample = DetDataSample(metainfo=META)
        sample.gt_instances = InstanceData(
            bboxes=boxes,
            labels=torch.arange(len(sides)),
            masks=BitmapMasks(squares(*sides).byte().numpy(), 64, 64),
        )
        sample.ignored_instances = InstanceData(
            bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long)
        )
        samples.append(sample)
    return samples


def segmented() -> list[BaseDataElement]:
    from mmseg.structures import SegDataSample

    samples = [SegDataSample(metainfo=META) for _ in range(2)]
    for sample in samples:
        sample.gt_sem_seg = PixelData(data=squares(30).long())
    return samples


DUC = dict(
    backbone=dict(type='mmssl.HDCResNet', depth=18, stage3=(1, 2), stage4=(5, 9)),
    decode_head=dict(
        _delete_=True,
        type='mmssl.DUCHead',
        in_channels=64,
        in_index=3,
        num_classes=11,
        loss_decode=dict(type='CrossEntropyLoss', avg_non_ignore=True),
    ),
)
MASK_RCNN = dict(
    type='MaskRCNN',
    backbone=dict(_delete_=True, type='mmssl.ViT', arch=ARCH, img_size=64, patch_size=16, out_indices=(1,)),
    roi_head=dict(
        _delete_=True,
        type='StandardRoIHead',
        bbox_roi_extractor=dict(
            type='SingleRoIExtractor',
            roi_layer=dict(type='RoIAlign', output_size=3, sampling_ratio=0),
            out_channels=32,
            featmap_strides=[16],
        ),
        bbox_head=dict(
            type='Shared2FCBBoxHead',
            in_channels=32,
            fc_out_channels=16,
            roi_feat_size=3,
            num_classes=10,
            bbox_coder=dict(type='DeltaXYWHBBoxCoder'),
        ),
        mask_roi_extractor=dict(
            type='SingleRoIExtractor',
            roi_layer=dict(type='RoIAlign', output_size=6, sampling_ratio=0),
            out_channels=32,
            featmap_strides=[16],
        ),
        mask_head=dict(
            type='FCNMaskHead',
            num_convs=1,
            in_channels=32,
            conv_out_channels=8,
            num_classes=10,
            loss_mask=dict(type='CrossEntropyLoss', use_mask=True),
        ),
    ),
    train_cfg=dict(
        rcnn=dict(
            mask_size=12,
            sampler=dict(
                type='RandomSampler', num=16, pos_fraction=0.25, neg_pos_ub=-1, add_gt_as_proposals=True
            ),
        )
    ),
    test_cfg=dict(rcnn=dict(mask_thr_binary=0.5)),
)
CASES = [
    Case('Segment Anything', 'sam', dict(clicks=dict(clicks=1)), prompted),
    Case('R-FCN', 'rfcn', {}, detected, 80),
    Case('Deformable R-FCN', 'rfcn-deform', {}, detected, 80),
    Case('Mask R-CNN on a ViT', 'rfcn', MASK_RCNN, detected, 110),
    Case('GCN', 'gcn', {}, segmented, 3),
    Case('DUC', 'gcn', DUC, segmented, 3),
]


def declared(model) -> int:
    """Host syncs that a system declares for a step with two images."""
    part = model if hasattr(model, 'host_syncs') else model.backbone
    return part.host_syncs + 2 * getattr(part, 'host_syncs_per_image', 0)


def build(case: Case):
    """The model, and its batch on the CPU, which the data preprocessor has checked."""
    config = Config.fromfile(ROOT / f'configs/smoke/{case.config}.py')
    config.merge_from_dict(dict(model=copy.deepcopy(case.changes)))
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(config.default_scope):
        model = ROOT_MODELS.build(config.model).train()
    images = [torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8) for _ in range(2)]
    batch = model.data_preprocessor(dict(inputs=images, data_samples=case.samples()), True)
    return model, batch


@pytest.mark.parametrize('case', CASES, ids=lambda case: case.title)
def test_systems_wait_no_more_than_they_declare(case):
    model, batch = build(case)
    with fake_cuda() as syncs:
        model, batch = on_cuda(model), on_cuda(batch)
        rounds = iter((3, 5))

        def loss():
            if hasattr(model, 'rounds'):  # the number of rounds does not matter
                model.rounds = next(rounds)
            return model.parse_losses(model(**batch, mode='loss'))[0]

        for value, waits in steps(model, loss, syncs):
            own = sum(count for (_, line), count in waits.items() if line.startswith('mmssl/'))
            assert value.is_cuda and own <= declared(model), waits
            assert sum(waits.values()) - own <= case.toolbox_syncs, waits
        with torch.no_grad():
            samples = model.eval()(**batch, mode='predict')
    assert len(samples) == 2


def budget_table() -> str:
    """The table of docs/speed.md, which names a self-supervised method only if it waits."""
    budgets = {name: MODELS.module_dict[name].host_syncs for name in METHODS}
    rows = [('self-supervised methods', SelfSupervisor.host_syncs, 0)]
    rows += [(name, budget, 0) for name, budget in budgets.items() if budget != SelfSupervisor.host_syncs]
    rows += [(case.title, declared(build(case)[0]), case.toolbox_syncs) for case in CASES]
    lines = ['| training step of | the package waits | mmdet or mmseg waits, at most |', '|---|---|---|']
    return '\n'.join([*lines, *(f'| {title} | {own} | {toolbox} |' for title, own, toolbox in rows)])


def test_the_table_of_the_docs_is_what_is_declared():
    table = budget_table()
    text = (ROOT / 'docs/speed.md').read_text(encoding='utf-8')
    assert table in text, f'docs/speed.md has another table of host syncs than this one:\n{table}'


def test_annotations_of_rfcn_are_checked_before_the_copy():
    model, batch = build(CASES[1])
    samples = detected()
    samples[1].gt_instances.bboxes[0, 2] = float('nan')
    data = dict(inputs=[torch.zeros(3, 64, 64, dtype=torch.uint8)] * 2, data_samples=samples)
    with pytest.raises(ValueError, match=r'a\.jpg: object 0 has the box \[8'):
        model.data_preprocessor(data, True)
    model.data_preprocessor(data, False)  # at inference there may be no annotations
    with fake_cuda() as syncs:
        samples = on_cuda(samples)
        with pytest.raises(ValueError, match=r'a\.jpg: object 0 has the box'):  # samples without a check
            model.check_objects(samples[1])
        assert syncs.own()
        syncs.clear()
        assert model.check_objects(on_cuda(batch['data_samples'][0])) and not syncs


def assign(tensor, index, value):
    tensor[index] = value
    return tensor


WAITING = {
    'item': lambda x: x.sum().item(),
    'bool': lambda x: bool(x.any()),
    'float of an element': lambda x: float(x[0, 0]),
    'tolist': lambda x: x.tolist(),
    'cpu': lambda x: x.cpu(),
    'nonzero': lambda x: x.nonzero(),
    'where with one argument': lambda x: torch.where(x > 0),
    'mask as an index': lambda x: x[x > 0],
    'tensor assigned to a mask': lambda x: assign(x, x > 0, x.sum()),
    'list as an index': lambda x: x[[0, 1]],
    'CPU tensor as an index': lambda x: x[torch.tensor([0, 1])],
    'number assigned to rows': lambda x: assign(x, torch.arange(2, device='cuda'), 1.0),
    'literal': lambda x: torch.tensor([1.0, 2.0], device='cuda'),
    'literal of the same type': lambda x: x.new_tensor([1.0, 2.0]),
    'unique': lambda x: x.unique(),
    'repeats on the device': lambda x: x.repeat_interleave(torch.ones_like(x[:, 0]).long(), dim=0),
    'one_hot without the number of classes': lambda x: torch.nn.functional.one_hot(x.long()),
    'copy from the CPU': lambda x: x.copy_(torch.ones(3, 4)),
    'equal': lambda x: torch.equal(x, x),
}
RUNNING = {
    'arithmetic': lambda x: (x @ x.t() + 2).softmax(0),
    'factories': lambda x: torch.arange(3, device=x.device) + torch.rand(3, device='cuda') + x.new_zeros(3),
    'slices': lambda x: x[:, 1:3],
    'index on the device': lambda x: x[torch.arange(2, device='cuda')],
    'number assigned to a mask': lambda x: assign(x, x > 0, 1.0),
    'number assigned to a slice': lambda x: assign(x, slice(0, 2), 1.0),
    'where with numbers': lambda x: torch.where(x > 0, x, 0),
    'scatter of a number': lambda x: x.scatter_(0, torch.zeros_like(x).long(), 1.0),
    'one_hot': lambda x: torch.nn.functional.one_hot(x.long(), 2),
    'copy from pinned memory': lambda x: torch.ones(3).pin_memory().to('cuda', non_blocking=True),
    'gradient': lambda x: torch.nn.Parameter(x).square().sum().backward(),
    'gradient of an index': lambda x: torch.nn.Parameter(x)[torch.arange(2, device='cuda')].sum().backward(),
}
REFUSED = {
    'CPU tensor as an operand': lambda x: x + torch.ones(4),
    'CPU tensor to concatenate': lambda x: torch.cat([x, torch.ones(1, 4)]),
    'CPU tensor indexed from the device': lambda x: torch.ones(3)[x[0].long()],
    'CPU generator': lambda x: torch.rand(2, device='cuda', generator=torch.Generator()),
    'array': lambda x: x.numpy(),
}


@pytest.mark.parametrize('name', [*WAITING, *RUNNING])
def test_what_waits_for_cuda_is_counted(name):
    with fake_cuda() as syncs:
        {**WAITING, **RUNNING}[name](on_cuda(torch.ones(3, 4)))
    assert bool(syncs) == (name in WAITING), syncs


@pytest.mark.parametrize('name', REFUSED)
def test_what_cuda_refuses_is_refused(name):
    with fake_cuda(), pytest.raises((RuntimeError, TypeError), match='cuda:0'):
        REFUSED[name](on_cuda(torch.ones(3, 4)))
