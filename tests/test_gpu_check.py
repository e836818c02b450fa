"""tools/gpu_check.py and ``mmssl doctor --gpu``: the code runs without a GPU, and a cut run still counts."""

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[1] / 'tools'))

import gpu_check
from gpu_checks import measuring, page
from gpu_checks.check import Check, OutOfTimeError, read
from gpu_checks.configured import CpuDraws, repeated

from mmssl.commands import gpu_operators
from mmssl.commands.gpu_problems import Problem
from mmssl.ops import switch

pytestmark = pytest.mark.slow
SCRIPT = Path(gpu_check.__file__)
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason='this machine has a GPU')


@pytest.fixture
def check(tmp_path):
    return Check('a', torch.device('cpu'), True, 60, tmp_path / 'gpu.json')


def test_all_parts_run_on_a_cpu_and_give_a_page(warm_cli, with_demo, tmp_path):
    options = ['--device', 'cpu', '--quick', '--minutes', '5', '--work-dir', with_demo(tmp_path)]
    result = warm_cli(*options, '--out', 'gpu.json', program=SCRIPT, cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    content = read(tmp_path / 'gpu.json')
    assert sorted(content['parts']) == list(gpu_check.PARTS)
    for part, values in content['parts'].items():
        assert values['status'] == 'done' and values['title'] == gpu_check.PARTS[part].title
        assert values['rows'] and all(row['ok'] is not False for row in values['rows'])
    assert content['versions']['torch'] == torch.__version__.partition('+')[0]
    text = page.page_of(content)
    assert all(f'## {part.title}' in text for part in gpu_check.PARTS.values())
    assert (
        '`python tools/gpu_check.py --device cpu --quick' in text and 'times and ratios say nothing' in text
    )


def test_the_file_is_complete_after_every_row(check):
    check.add('first', True, error=1e-7, unknown=None)
    values = read(check.out)['parts']['a']
    assert values['status'] == 'unfinished'
    assert values['rows'] == [{'name': 'first', 'ok': True, 'error': 1e-7}]
    check.add('second', errors={'float32': float('inf')})
    check.write('done')
    values = read(check.out)['parts']['a']
    assert values['status'] == 'done' and values['rows'][1]['errors'] == {'float32': 'inf'}
    assert [path.name for path in check.out.parent.iterdir()] == ['gpu.json']


def test_a_failure_is_a_row_and_does_not_stop_the_others(check):
    def fail(check):
        raise RuntimeError('no kernel image\nat a line')

    def lack(check):
        raise ModuleNotFoundError("No module named 'lightly'", name='lightly')

    def stop(check):
        raise OutOfTimeError

    for call in (fail, lack, stop, lambda check: check.add('right', True)):
        check.run(call.__name__, call)
    check.deadline = 0
    check.run('late', fail)
    assert [(row['name'], row['ok'], row.get('note')) for row in check.rows] == [
        ('fail', False, 'RuntimeError: no kernel image'),
        ('lack', None, 'not measured: lightly is not installed'),
        ('stop', None, 'not measured: out of time'),
        ('right', True, None),
        ('late', None, 'not measured: out of time'),
    ]
    check.write('done')
    assert gpu_check.summary(check.out) == 1


def test_a_part_that_takes_too_long_is_ended_and_reported(monkeypatch, tmp_path):
    monkeypatch.setattr(gpu_check, 'GRACE', 0.1)
    monkeypatch.setattr(sys, 'argv', ['gpu_check.py', '--device', 'cpu', '--out', str(tmp_path / 'gpu.json')])
    args = gpu_check.read_arguments()
    args.work_dir = tmp_path
    gpu_check.run_child('b', args, 0.1)
    assert read(args.out)['parts']['b']['status'] == 'stopped: out of time'
    assert gpu_check.summary(args.out) == 1


@without_gpu
def test_without_a_gpu_the_commands_say_so(warm_cli, tmp_path):
    result = warm_cli(program=SCRIPT, cwd=tmp_path)
    assert result.returncode == 2 and 'finds no GPU; --device cpu --quick' in result.stderr
    assert not list(tmp_path.iterdir())
    result = warm_cli('doctor', '--gpu')
    assert result.returncode == 1 and not result.stdout
    assert result.stderr.startswith('mmssl doctor: error: --gpu: torch') and 'finds no GPU' in result.stderr


def test_the_report_of_the_operators_marks_a_wrong_one(monkeypatch, capsys):
    def double(x):
        return 2 * x if x.dtype == torch.float64 else 2.01 * x

    problems = {
        'right': lambda: Problem(torch.sin, (torch.randn(5, dtype=torch.float64),)),
        'wrong': lambda: Problem(double, (torch.randn(5, dtype=torch.float64),)),
        'failing': lambda: Problem(torch.linalg.inv, (torch.zeros(2, 2, dtype=torch.float64),)),
    }
    monkeypatch.setattr(gpu_operators, 'PROBLEMS', problems)
    assert not gpu_operators.report(torch.device('cpu'))
    right, wrong, failing = capsys.readouterr().out.splitlines()
    assert right.startswith('ok      right: float32 ')
    assert wrong.startswith('BROKEN  wrong: float32 5.0e-03')
    assert failing.startswith('BROKEN  failing: ') and 'singular' in failing
    monkeypatch.setattr(gpu_operators, 'PROBLEMS', {'right': problems['right']})
    assert gpu_operators.report(torch.device('cpu'))
    assert gpu_operators.report(torch.device('cpu'), seconds=-1)
    assert 'not compared within' in capsys.readouterr().out


def test_the_operators_record_which_fast_forms_computed_them(monkeypatch):
    monkeypatch.setattr(switch, '_plain_only', False)
    outcome = gpu_operators.compare('DINO loss', torch.device('cpu'))
    assert outcome.ok and outcome.forms == ('dino:cross_entropy_of_pairs',)
    assert set(outcome.errors) == {'float32', 'float32, plain', 'bfloat16'}


def test_draws_do_not_depend_on_the_device():
    def draw():
        torch.manual_seed(0)
        x = torch.ones(4, 5)
        return [
            torch.rand(3, device='cpu'),
            torch.rand_like(x),
            torch.randperm(7),
            torch.bernoulli(x / 2),
            torch.empty(3, 2).uniform_(1, 2),
            x.clone().bernoulli_(0.5),
            torch.nn.functional.dropout(x, 0.5),
        ]

    with CpuDraws():
        first = draw()
        torch.testing.assert_close(first, draw())
    assert 1 <= first[4].min() <= first[4].max() <= 2
    assert set(first[6].unique().tolist()) == {0.0, 2.0}


def test_a_batch_is_repeated_up_to_its_size():
    views = [torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 2, 2)]
    batch = repeated({'inputs': views, 'data_samples': ['a', 'b']}, 3)
    assert [view.shape[0] for view in batch['inputs']] == [6, 6]
    assert batch['data_samples'] == ['a', 'b'] * 3
    assert len(repeated([torch.zeros(3, 4, 5), torch.zeros(3, 5, 4)], 2)) == 4


@pytest.mark.parametrize(
    ('name', 'rate'),
    [('NVIDIA H200', 989e12), ('NVIDIA H100 PCIe', 756e12), ('NVIDIA L40S', 362e12), ('NVIDIA X1', None)],
)
def test_the_matrix_rate_is_that_of_the_named_gpu(name, rate, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda device: name)
    assert measuring.matrix_rate(torch.device('cuda')) == rate
    assert measuring.matrix_rate(torch.device('cpu')) is None


def test_the_page_compares_with_peers(monkeypatch, tmp_path):
    rows = [
        {'name': 'DINO-S', 'ok': None, 'ms': 40.0, 'batch': 64},
        {'name': 'DINO-S, lightly', 'ok': None, 'ms': 80.0, 'note': 'a | b'},
    ]
    content = dict(
        command='python tools/gpu_check.py',
        date='2026-01-02',
        device='NVIDIA H200',
        driver='580',
        versions={'torch': '2.11.0'},
        parts={'e': dict(title='Speed', status='stopped: out of time', rows=rows)},
    )
    out, target = tmp_path / 'gpu.json', tmp_path / 'gpu.md'
    out.write_text(json.dumps(content))
    monkeypatch.setattr(sys, 'argv', ['gpu_check.py', '--out', str(out), '--table', str(target)])
    assert gpu_check.main() == 0
    lines = target.read_text().splitlines()
    assert '2026-01-02, NVIDIA H200, driver 580; torch 2.11.0.' in lines
    assert '| DINO-S, bfloat16, against lightly | 0.50 |' in lines
    assert '| SAM-B encoder, bfloat16 against float32 | not measured |' in lines
    assert 'This part is incomplete: stopped: out of time.' in lines
    assert '| DINO-S, lightly | 80 |  | a / b |' in lines
