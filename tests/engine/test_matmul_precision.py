"""``env_cfg.float32_matmul_precision`` of both runners."""

import pytest
import torch
from mmengine.model import BaseModel
from torch import nn

from mmssl.engine.runner import FlexibleRunner, Runner


class Toy(BaseModel):
    """A weight."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return self.layer(inputs)


@pytest.fixture(autouse=True)
def precision():
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize('runner', [Runner, FlexibleRunner])
def test_precision_is_set_only_where_the_config_asks_for_it(runner, tmp_path):
    runner(model=Toy(), work_dir=str(tmp_path), experiment_name=f'{runner.__name__}-plain')
    assert torch.get_float32_matmul_precision() == 'highest'
    env_cfg = dict(float32_matmul_precision='high')
    runner(model=Toy(), work_dir=str(tmp_path), env_cfg=env_cfg, experiment_name=f'{runner.__name__}-high')
    assert torch.get_float32_matmul_precision() == 'high' and env_cfg


def test_other_names_are_refused(tmp_path):
    with pytest.raises(ValueError, match="precision='tf32'; give one of highest, high, medium"):
        Runner(model=Toy(), work_dir=str(tmp_path), env_cfg=dict(float32_matmul_precision='tf32'))
