"""What a training run writes to the screen, to a pipe and to its log file."""

import logging
import re
import types
import warnings

import pytest
from mmengine.logging import MMLogger

from mmssl.engine import screen as module
from mmssl.engine.run_summary import summary_lines
from mmssl.engine.screen import Screen, current_screen, quiet_screen

NOISE = (
    'System environment',
    'Hooks will be executed',
    'OneDL',
    'faster_coco_eval',
    'FileClient',
    'The draw',
)


def record(message, level=logging.INFO):
    return logging.LogRecord('mmengine', level, '', 0, message, (), None)


@pytest.mark.parametrize('config', ['mae', 'rfcn', 'gcn'])
def test_few_lines_before_the_first_training_line(warm_cli, with_demo, tmp_path, config):
    done = warm_cli(
        'train',
        f'smoke/{config}.py',
        '--work-dir',
        'run',
        '--no-validate',
        '--iters',
        '2',
        cwd=with_demo(tmp_path),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    before, after = re.split(r'.*Iter\(train\).*\n', done.stdout, maxsplit=1)
    lines = [*done.stderr.splitlines(), *before.splitlines()]
    assert 8 <= len(lines) <= 12, '\n'.join(lines)
    assert not any(noise in line for noise in NOISE for line in lines), '\n'.join(lines)
    names = [line.split()[0] for line in before.splitlines() if line.startswith('  ')]
    assert names == ['model', 'data', 'batch', 'rate', 'steps', 'device', 'work']
    assert (
        'run/iter_2.pth' in after and f'mmssl report {tmp_path}/run\n' in after and '\033' not in done.stdout
    )
    (log,) = (tmp_path / 'run').glob('*/*.log')
    assert all(
        text in log.read_text() for text in ('System environment', 'default_scope', 'after_train_iter')
    )


def test_verbose_changes_nothing(capsys):
    with quiet_screen('smoke/mae.py', verbose=True):
        print('everything')
        assert current_screen() is None
    assert capsys.readouterr().out == 'everything\n'


def test_output_comes_back_after_a_run_that_fails(capsys, monkeypatch):
    monkeypatch.setattr(MMLogger, '_instance_dict', {})
    shown = warnings.showwarning
    early = MMLogger.get_instance('early')
    with pytest.raises(ValueError, match='no data'), quiet_screen('smoke/mae.py'):
        print('noise')
        early.info('noise')
        late = MMLogger.get_instance('late')
        raise ValueError('no data')
    print('error')
    early.info('early one')
    late.warning('late one')
    out = capsys.readouterr().out
    assert 'noise' not in out and all(text in out for text in ('error', 'early one', 'late one'))
    assert current_screen() is None and warnings.showwarning is shown


def test_records():
    screen = Screen('smoke/mae.py')
    assert not screen.filter(record('Config: ...'))
    assert screen.filter(record('the schedule is shorter than the training', logging.WARNING))
    assert screen.filter(record('stopped', logging.ERROR))
    assert not screen.filter(record('"FileClient" will be deprecated in future', logging.WARNING))
    screen.begun = True
    screen.terminal = False
    assert screen.filter(record('Iter(train) [1/4] loss: 1'))
    screen.terminal = True
    assert not screen.filter(record('Iter(train) [1/4] loss: 1'))
    assert not screen.filter(record('Saving checkpoint at 5 iterations'))
    assert screen.filter(record('Iter(val) [20/20]  mIoU: 7.9'))


@pytest.mark.parametrize(
    ('message', 'category', 'filename', 'shown'),
    [
        ('a shape is odd', UserWarning, 'torch/nn/module.py', True),
        ('old name', FutureWarning, '/clone/mmssl/errors.py', True),
        ('old name', FutureWarning, 'torch/cuda.py', False),
        (
            'faster_coco_eval is not installed, metrics will not be computed.',
            UserWarning,
            'mmdet/a.py',
            False,
        ),
    ],
)
def test_warnings_of_libraries(capsys, message, category, filename, shown):
    screen = Screen('smoke/mae.py')
    screen.show_warning(message, category, filename, 3)
    assert (capsys.readouterr().err == f'mmssl train: {category.__name__}: {message}\n') is shown
    assert f'{filename}:3: ' in screen.output.release()


def test_a_silent_run_says_how_far_it_is(capsys, monkeypatch):
    screen = Screen('smoke/mae.py')
    runner = types.SimpleNamespace(iter=119, max_iters=4000)
    monkeypatch.setattr(module, 'progress_text', lambda runner, loss: f'loss {loss}')
    loss = types.SimpleNamespace(item=lambda: 0.5)
    screen.after_step(runner, dict(loss=loss))
    assert capsys.readouterr().out == ''
    screen.last_line -= module.SILENCE
    screen.after_step(runner, dict(loss=loss))
    screen.after_step(runner, dict(loss=loss))
    assert capsys.readouterr().out == 'step 120/4000  loss 0.5\n'


def test_summary_of_an_accumulated_batch():
    import torch

    from mmssl.engine.optim_wrapper import OptimWrapper

    model = torch.nn.Linear(1000, 1000, bias=False)
    runner = types.SimpleNamespace(
        model=model,
        train_dataloader=types.SimpleNamespace(dataset=range(2000), batch_size=8),
        optim_wrapper=OptimWrapper(torch.optim.SGD(model.parameters(), 0.2), accumulative_counts=4),
        cfg=dict(train_cfg=dict(max_epochs=3)),
        max_iters=750,
        max_epochs=3,
        iter=250,
        work_dir='run',
        log_dir='run/1',
        logger=types.SimpleNamespace(log_file='run/1/1.log'),
    )
    text = '\n'.join(summary_lines(runner, 'a.py'))
    for part in (
        'Linear, 1 M parameters',
        '2,000 images',
        '32 images a step (8 a process x 4 accumulated)',
        '0.2, SGD',
        '750 in 3 epochs, resumed after step 250',
    ):
        assert part in text, text
