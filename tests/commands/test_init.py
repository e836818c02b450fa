"""``mmssl init``: from a folder to a config that trains, by questions and by options."""

import io
import shlex
import sys

import pytest

from mmssl.apis.starting_config import PRETRAIN, init, suggest_goal
from mmssl.cli import main
from mmssl.config.load import load_config


class Terminal(io.StringIO):
    """Input of a person at a terminal."""

    def isatty(self):
        return True


@pytest.mark.parametrize(
    'folder, goal',
    [
        ('scenes/VOC2007', 'detect'),
        ('imagenet', 'classify'),
        ('imagenet/train/astronaut', PRETRAIN),
    ],
)
def test_suggests_what_the_labels_are_for(demo_data, folder, goal):
    path = demo_data / folder
    if not path.exists():
        path = next(each for each in (demo_data / 'imagenet/train').iterdir() if each.is_dir())
    assert suggest_goal(path) == goal


def test_answers_become_a_config_that_trains(demo_data, tmp_path, monkeypatch, capsys, warm_cli):
    images = next(each for each in (demo_data / 'imagenet/train').iterdir() if each.is_dir())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'stdin', Terminal(f'{images}\n\n\n1\n'))
    assert main(['init', '--out', 'my run']) == 0
    printed = capsys.readouterr().out
    command = printed.splitlines()[-1].split('train:')[1].strip()
    assert command == "mmssl train 'my run/config.py' --auto-scale-lr --epochs 1"
    cfg = load_config('my run/config.py')
    assert cfg.train_dataloader.dataset.data_root == str(images)
    assert cfg.train_dataloader.batch_size == min(64, len(list(images.iterdir())))
    small = ['--cfg-options', 'train_dataloader.batch_size=50', 'train_dataloader.num_workers=0']
    done = warm_cli(*shlex.split(command)[1:], *small, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / 'my run').glob('*.pth'))


def test_labels_become_the_config_of_finetune(demo_data, tmp_path):
    made = init(demo_data / 'imagenet', epochs=2, out=tmp_path / 'run')
    assert made.command == f'mmssl train {tmp_path / "run/config.py"}'
    assert load_config(made.config).model.head.num_classes == 10


def test_nobody_to_ask(demo_data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'stdin', io.StringIO(''))
    assert main(['init']) == 1
    assert 'no folder of images is given; type `mmssl init DIR`' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    'options, message',
    [
        (['nowhere'], 'nowhere does not exist'),
        (
            ['{data}', '--want', 'pretrain', '--start', 'random'],
            "method 'random' is unknown; one of moco, mae, dino",
        ),
        (
            ['{data}', '--want', 'classify', '--start', 'moco'],
            'moco pre-trains; start classify from a checkpoint',
        ),
        (['{data}', '--epochs', '0'], 'epochs=0 must be at least 1'),
        (['{data}', '--want', 'detect'], "cannot be used for the task 'detect'"),
    ],
)
def test_wrong_answers(demo_data, tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    assert main(['init', '--yes', *(each.format(data=demo_data / 'imagenet') for each in options)]) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
