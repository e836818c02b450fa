"""What is written for mmpretrain runs the same inside mmssl, or is refused by name."""

import importlib
import inspect
import re
from pathlib import Path

import pytest

import mmssl.registry
from mmssl.registry import MMPRETRAIN_DEFAULTS, MODELS, OPTIMIZERS, build

models = pytest.importorskip('mmpretrain.registry').MODELS
PAGE = Path(__file__).parents[2] / 'docs' / 'coming-from.md'
SIZES = dict(embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=32)
# None and {} for settings that are given as a dict, 0 for 0.0: nothing of it changes a model
EQUAL = ({}, None, 0, 0.0, {'type': 'LN', 'eps': 1e-6}, inspect.Parameter.empty)


def defaults(kind):
    values = {}
    for base in kind.__mro__:
        if '__init__' in vars(base):
            for name, parameter in inspect.signature(base.__init__).parameters.items():
                values.setdefault(name, parameter.default)
    return values


def differing(ours, theirs):
    mine, others = defaults(ours), defaults(theirs)
    return {
        name: value
        for name, value in others.items()
        if name in mine and mine[name] != value and not (value in EQUAL and mine[name] in EQUAL)
    }


def test_every_default_that_differs_is_listed():
    optimizers = importlib.import_module('mmpretrain.registry').OPTIMIZERS
    text = PAGE.read_text()
    for ours, theirs in ((MODELS, models), (OPTIMIZERS, optimizers)):
        ours.import_from_location()
        theirs.import_from_location()
        for name, kind in ours.module_dict.items():
            other = theirs.module_dict.get(name)
            if not inspect.isclass(other) or other is kind:
                continue
            for argument in differing(kind, other):
                if argument not in ('neck', 'head', 'init_cfg', 'hid_channels', 'out_channels'):
                    assert re.search(rf'\| .*`{argument}`.* of `{name}`', text), f'{argument} of {name}'


@pytest.mark.parametrize('name', MMPRETRAIN_DEFAULTS)
def test_a_plain_name_has_the_defaults_of_mmpretrain(name):
    kind, theirs = MODELS.get(name), models.get(name)
    assert {key: defaults(theirs)[key] for key in MMPRETRAIN_DEFAULTS[name]} == MMPRETRAIN_DEFAULTS[name]
    plain = build(dict(type=name, arch=SIZES, img_size=32, patch_size=8), MODELS)
    own = build(dict(type=f'mmssl.{name}', arch=SIZES, img_size=32, patch_size=8), MODELS)
    assert type(plain) is type(own) is kind
    for key, value in MMPRETRAIN_DEFAULTS[name].items():
        if key == 'stop_grad_conv1':
            trained = [net.patch_embed.projection.weight.requires_grad for net in (plain, own)]
            assert trained == [True, False]
        else:
            assert getattr(plain, key) == value != getattr(own, key)
    given = build(dict(type='MAEViT', arch=SIZES, img_size=32, patch_size=8, out_type='cls_token'), MODELS)
    assert given.out_type == 'cls_token'


@pytest.mark.parametrize('part', ['MAEPretrainDecoder', 'mmpretrain.MAEPretrainHead'])
def test_a_part_that_does_not_fit_is_refused_with_its_counterpart(part):
    with pytest.raises(ValueError, match=rf'{part} is a part of mmpretrain .* mmssl\.MAE(Decoder|Head)'):
        mmssl.registry.build(dict(type=part), MODELS)
