"""Interactive training on two processes, one without masks: both have the gradients of all images."""

import copy

import pytest
import torch
from mmengine.model import MMDistributedDataParallel
from mmengine.structures import BaseDataElement, InstanceData
from torch import distributed as dist
from torch import multiprocessing

from mmssl.engine.launch import leave_process_group
from mmssl.promptable import build_sam
from mmssl.promptable.training import InteractiveSAM

SIZES = dict(
    image_encoder=dict(
        img_size=64, embed_dim=32, depth=2, num_heads=2, out_chans=32, window_size=3, global_attn_indexes=(1,)
    ),
    mask_decoder=dict(transformer=dict(num_heads=4, mlp_dim=64), iou_head_hidden_dim=32),
)


def gradients(settings, ranks, world):
    """Name to gradient after a step on the images of these ranks."""
    torch.manual_seed(0)
    model = InteractiveSAM(
        build_sam(copy.deepcopy(SIZES)), rounds=3, silent_rounds=1, max_masks=4, **settings
    ).train()
    wrapped = MMDistributedDataParallel(model, broadcast_buffers=False) if world > 1 else model
    rows, columns = torch.meshgrid(torch.arange(64), torch.arange(64), indexing='ij')
    losses = []
    for rank in ranks:
        masks = (
            torch.stack([(rows - 24) ** 2 + (columns - 30) ** 2 < 200])
            if rank == 0
            else torch.zeros(0, 64, 64, dtype=torch.bool)
        )
        sample = BaseDataElement(
            gt_instances=InstanceData(masks=masks), metainfo=dict(img_shape=(64, 64), ori_shape=(64, 64))
        )
        image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(rank))
        torch.manual_seed(5)
        matches = wrapped(image, [sample], mode='loss')
        losses.append(sum(value for name, value in matches.items() if 'loss' in name))
    (sum(losses) / len(losses)).backward()
    return {
        name: parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def run(rank, world, folder, settings):
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'file://{folder}/meet', rank=rank, world_size=world)
    torch.save(gradients(settings, [rank], world), folder / f'{rank}.pth')
    leave_process_group()


@pytest.mark.parametrize(
    'settings', [dict(), dict(tune='lora'), dict(tune='decoder')], ids=['all', 'lora', 'decoder']
)
def test_a_rank_without_masks_takes_part(settings, tmp_path):
    multiprocessing.start_processes(run, (2, tmp_path, settings), nprocs=2, start_method='fork')
    first, second = (torch.load(tmp_path / f'{rank}.pth') for rank in range(2))
    alone = gradients(settings, [0, 1], 1)
    assert first.keys() == second.keys() == alone.keys() and any(
        value.abs().sum() > 0 for value in first.values()
    )
    for name, value in alone.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], value, atol=1e-5, rtol=1e-3, msg=name)
