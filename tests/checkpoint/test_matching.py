"""Loading weights into a model reports what matched, and raises if nothing did."""

import pytest
import torch
from torch import nn

from mmssl.checkpoint import load_weights


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def test_backbone_out_of_an_algorithm(tmp_path):
    source, target = net(), net()
    nn.init.ones_(source[0].weight)
    weights = {f'backbone.{key}': value for key, value in source.state_dict().items()} | {
        'head.weight': torch.zeros(1)
    }
    torch.save({'state_dict': weights}, tmp_path / 'x.pth')
    report = load_weights(target, tmp_path / 'x.pth', prefix='backbone.', strict=True)
    assert report.complete and len(report.matched) == 7 and torch.equal(target[0].weight, source[0].weight)
    with pytest.raises(ValueError, match=r"(?s)no weight of .*x.pth fits.*prefix='backbone.'") as error:
        load_weights(net(), tmp_path / 'x.pth')
    assert 'backbone.0.weight' in str(error.value) and '0.weight' in str(error.value)
    with pytest.raises(
        ValueError, match="no key under prefix='neck.'; it has backbone.0.weight.*backbone., head."
    ):
        load_weights(net(), tmp_path / 'x.pth', prefix='neck')
    with pytest.raises(ValueError, match='load it into model.backbone'):
        load_weights(nn.ModuleDict(dict(backbone=net())), source.state_dict())


def test_partial_match_prints_a_table(capsys):
    weights = net().state_dict()
    weights['extra'] = torch.zeros(1)
    weights['0.weight'] = torch.zeros(3, 5)
    del weights['1.bias']
    report = load_weights(net(), {'model': weights}, logger=None)
    assert (report.missing, report.unexpected, report.mismatched) == (
        ['1.bias'],
        ['extra'],
        [('0.weight', (3, 5), (3, 2))],
    )
    assert str(report) in ''.join(
        capsys.readouterr()
    ) and '0.weight (3x5 in the file, 3x2 in the model)' in str(report)
    with pytest.raises(ValueError, match='must match exactly'):
        load_weights(net(), weights, strict=True)


def test_module_prefix_is_stripped_exactly():
    weights = net().state_dict()
    assert load_weights(net(), {f'module.{key}': value for key, value in weights.items()}).complete
    model = nn.ModuleDict(dict(modules_=net(), module1=net()))
    assert load_weights(model, model.state_dict(), strict=True).complete


def test_wrapped_model_takes_bare_keys():
    from mmengine.model import BaseModel, BaseTTAModel
    from mmengine.registry import MODELS

    class Wrapper(BaseTTAModel):
        def merge_preds(self, data_samples_list):
            return data_samples_list

    class Bare(BaseModel):
        def __init__(self):
            super().__init__()
            self.net = net()

        def forward(self, inputs, data_samples=None, mode='tensor'):
            return inputs

    assert MODELS is not None
    bare = Bare()
    report = load_weights(Wrapper(module=Bare()), bare.state_dict(), strict=True)
    assert report.matched[0] == 'net.0.weight'
