"""``mmssl completion``: what real shells complete."""

import shutil
import subprocess

import pytest

from mmssl import cli
from mmssl.commands import shells
from mmssl.commands.shells import described
from mmssl.config.paths import config_root


@pytest.fixture(scope='module')
def scripts(tmp_path_factory):
    """A folder with the three scripts and some files to complete."""
    folder = tmp_path_factory.mktemp('completion')
    for shell in ('bash', 'zsh', 'fish'):
        (folder / f'mmssl.{shell}').write_text(shells.script(shell))
    (folder / 'photos').mkdir()
    (folder / 'photo.jpg').touch()
    (folder / 'own_config.py').touch()
    return folder


def run(shell, folder, program, *more):
    done = subprocess.run(
        [shell, *more, '-c', program], capture_output=True, text=True, cwd=folder, timeout=60
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout


SMOKE_R = {'smoke/relative_location.py', 'smoke/rfcn-deform.py', 'smoke/rfcn.py', 'smoke/rotation.py'}
# what is typed, the word under the cursor last; and what is offered
CASES = {
    'mmssl tra': {'train'},
    'mmssl check': {'check-data'},
    'mmssl train smoke/r': SMOKE_R,
    'mmssl train --resu': {'--resume'},
    'mmssl train smoke/mae.py --amp ': {'bfloat16', 'float16'},
    'mmssl train smoke/mae.py --cfg-options a=1 b=2 --wo': {'--work-dir'},
    'mmssl test smoke/mae.py photo': {'photo.jpg', 'photos'},
    'mmssl train own': {'own_config.py'},
    'mmssl train smoke/mae.py --data pho': {'photos'},
    'mmssl print-config smoke/mae.py --diff smoke/r': SMOKE_R,
    'mmssl visualize ': {'detections', 'scores', 'sampling', 'curves', 'receptive-field'},
    'mmssl visualize curves --ke': {'--keys'},
    'mmssl visualize detections smoke/r': SMOKE_R,
    'mmssl check-data smoke/gcn.py --split ': {'train', 'val', 'test'},
    'mmssl list mmssl.MAED': {'mmssl.MAEDecoder'},
    'mmssl convert sw': {'swav', 'swin'},
    'mmssl completion ': {'bash', 'zsh', 'fish'},
    'mmssl report pho': {'photos'},
    'mmssl frames --skip': {'--skip-similar'},
}


@pytest.mark.skipif(not shutil.which('bash'), reason='no bash')
def test_bash(scripts):
    lines = ['source ./mmssl.bash']
    for typed in CASES:
        words = typed.split(' ')
        lines.append(
            f'COMP_WORDS=({" ".join(words[:-1])} "{words[-1]}"); COMP_CWORD={len(words) - 1}; _mmssl; '
            'echo "${COMPREPLY[@]}"'
        )
    lines.append('complete -p mmssl')
    out = run('bash', scripts, '\n'.join(lines)).splitlines()
    assert out.pop() == 'complete -F _mmssl mmssl'
    assert {typed: set(line.split()) for typed, line in zip(CASES, out, strict=True)} == CASES


@pytest.mark.skipif(not shutil.which('fish'), reason='no fish')
def test_fish(scripts):
    lines = ['source ./mmssl.fish'] + [
        f"echo (complete -C'{typed}' | string split -f 1 \\t)" for typed in CASES
    ]
    out = run('fish', scripts, '\n'.join(lines), '--no-config').splitlines()
    for (typed, expected), line in zip(CASES.items(), out, strict=True):
        assert {word.rstrip('/') for word in line.split()} == expected, typed


@pytest.mark.skipif(not shutil.which('zsh'), reason='no zsh')
def test_zsh_loads_and_knows_every_command(scripts):
    program = (
        'autoload -Uz compinit && compinit -u -D; source ./mmssl.zsh; '
        'print $_comps[mmssl]; functions _mmssl_arguments _mmssl'
    )
    out = run('zsh', scripts, program, '-f')
    assert out.splitlines()[0] == '_mmssl'
    for name in described.commands():
        assert f'({name})' in out.replace("'", '').replace('\\', '') and f'{name.split()[0]}:' in out


def test_every_option_of_every_command_is_there(scripts):
    every = described.commands()
    assert set(cli.COMMANDS) <= set(every) and 'visualize curves' in every
    types = {
        (name, argument.options[-1:] or argument.metavar): argument.type
        for name, (_, arguments) in every.items()
        for argument in arguments
    }
    assert types['train', ('--data',)] == 'dir'
    assert types['print-config', ('--diff',)] == 'config' and types['train', 'CONFIG'] == 'config'
    assert (
        types['knn', ('--out',)] == 'file'
        and types['knn', ('--seed',)] == 'none'
        and types['train', ('--compile',)] == 'flag'
    )
    for shell in ('bash', 'zsh'):
        text = (scripts / f'mmssl.{shell}').read_text()
        for _, arguments in every.values():
            assert all(option in text for argument in arguments for option in argument.options)


def test_names_are_registered_classes():
    found = described.registered_names()
    assert {'mmssl.MAE', 'mmssl.RFCN', 'mmssl.GlobalConvHead', 'mmssl.SAM', 'mmssl.ImageFolder'} <= set(found)
    assert found == sorted(set(found)) and all(name.startswith('mmssl.') for name in found)


def test_families_are_all_there():
    from mmssl.convert import families

    (family,) = (
        argument for argument in described.commands()['convert'].arguments if argument.metavar == 'FAMILY'
    )
    assert set(family.choices) == set(families())


def test_script_by_the_command(run_cli, tmp_path):
    done = run_cli('completion', 'bash', cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, '') and str(config_root()) in done.stdout
    done = run_cli('completion', 'bsh')
    assert (
        done.returncode == 2 and "did you mean 'bash'?" in done.stderr and len(done.stderr.splitlines()) == 2
    )
