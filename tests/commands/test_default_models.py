"""Commands without a model use the small ones of the package, and say so in one line."""

import json

import numpy as np
import pytest
from PIL import Image

from mmssl.apis import PromptInferencer, get_model
from mmssl.cli import main
from mmssl.commands.default_models import with_default_model
from mmssl.commands.parser import command_parser
from mmssl.commands.table import DEFAULT_MODELS


@pytest.fixture(scope='module')
def photo(tmp_path_factory):
    """A bright square on a dark ground."""
    pixels = np.full((96, 128, 3), 30, np.uint8)
    pixels[24:72, 40:96] = (220, 180, 40)
    path = tmp_path_factory.mktemp('photo') / 'square.png'
    Image.fromarray(pixels).save(path)
    return path


def one_notice(capsys, name):
    text = capsys.readouterr().out
    notices = [line for line in text.splitlines() if line.startswith('using ')]
    assert len(notices) == 1 and notices[0].startswith(f'using {name} from the package: a small ')
    return text


def test_segment_by_a_box_and_everything(photo, tmp_path, capsys):
    assert main(['segment', str(photo), '--box', '40,24,96,72', '--out', str(tmp_path / 'box')]) == 0
    one_notice(capsys, 'sam-mini')
    mask = np.asarray(Image.open(tmp_path / 'box/masks/square/000.png')) > 0
    truth = np.zeros((96, 128), bool)
    truth[24:72, 40:96] = True
    assert (mask & truth).sum() / (mask | truth).sum() > 0.6
    auto = ['segment', str(photo), '--auto', '--points-per-side', '3', '--out', str(tmp_path / 'auto')]
    assert main(auto) == 0
    one_notice(capsys, 'sam-mini')
    assert json.loads((tmp_path / 'auto/annotations.json').read_text())['annotations']


def test_figures_of_attention_and_reconstruction(photo, tmp_path, capsys):
    assert main(['attention', str(photo), '--out', str(tmp_path / 'attention.png')]) == 0
    one_notice(capsys, 'dino-mini')
    assert main(['reconstruct', '--out', str(tmp_path / 'mae.png'), str(photo)]) == 0
    one_notice(capsys, 'mae-mini')
    assert Image.open(tmp_path / 'attention.png').width > Image.open(tmp_path / 'mae.png').height


def test_knn(tmp_path, capsys):
    for split in ('train', 'val'):
        for value in (40, 200):
            for index in range(3):
                path = tmp_path / split / str(value) / f'{index}.png'
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.full((48, 48, 3), value + index, np.uint8)).save(path)
    assert main(['knn', '--data', str(tmp_path), '--workers', '0', '--k', '3']) == 0
    assert 'top1 100.00 %' in one_notice(capsys, 'dino-mini')


def test_only_missing_models_are_filled_in():
    assert with_default_model(['a.jpg', '--out', 'b.png'], 'mae-mini') == [
        'mae-mini', 'auto', 'a.jpg', '--out', 'b.png',
    ]  # fmt: skip
    for typed in (
        ['c.py', 'd.pth', 'a.jpg'],
        ['smoke/mae', 'random', 'a.jpg'],
        ['mae-mini', 'auto', 'a.jpg'],
    ):
        assert with_default_model(typed, 'mae-mini') == typed
    assert with_default_model(['my_config', 'my_weights'], 'mae-mini', takes_images=False)[0] == 'my_config'
    for name in DEFAULT_MODELS:
        assert 'a small model in the package' in ' '.join(command_parser(name).format_help().split())


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--model', 'vit_b'], '--model vit_b needs --checkpoint: --checkpoint auto for a released one'),
        (['--checkpoint', 'a.pth'], '--checkpoint a.pth needs --model: vit_b, or a config'),
        (['--model', 'smoke/sam', '--checkpoint', 'auto'], "no weights are known for 'smoke/sam'"),
    ],
)
def test_half_a_model_is_refused(photo, tmp_path, capsys, arguments, message):
    assert main(['segment', str(photo), '--auto', '--out', str(tmp_path / 'out'), *arguments]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


def test_from_python(photo):
    result = PromptInferencer('sam-mini')(str(photo), prompts=dict(boxes=[(40, 24, 96, 72)]))[0]
    assert result['masks'].shape == (1, 96, 128)
    model = get_model('dino-mini', pretrained=True)
    assert sum(parameter.numel() for parameter in model.backbone.parameters()) > 3e5
