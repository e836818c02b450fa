"""``mmssl doctor``: made-up broken environments, a really broken one, crashing imports."""

import dataclasses

import pytest

from mmssl.cli import main
from mmssl.hosts import doctor, probes
from mmssl.hosts.doctor import Environment, Probe
from mmssl.hosts.patches import PATCHES

pytestmark = pytest.mark.slow

VERSIONS = {
    'numpy': '2.2.6',
    'torch': '2.11.0',
    'torchvision': '0.26.0',
    'setuptools': '81.0.0',
    'onedl-mmengine': '0.10.12',
    'onedl-mmcv': '2.3.6',
    'onedl-mmpretrain': '1.3.6',
    'onedl-mmdetection': '3.5.1',
    'onedl-mmsegmentation': '1.4.2',
}
OWNERS = {
    'mmengine': ['onedl-mmengine'],
    'mmcv': ['onedl-mmcv'],
    'mmpretrain': ['onedl-mmpretrain'],
    'mmdet': ['onedl-mmdetection'],
    'mmseg': ['onedl-mmsegmentation'],
}
PROBES = {
    **{name: Probe(True) for name in doctor.PROBES},
    'torch': Probe(True, {'cuda': None, 'devices': []}),
    'ops': Probe(True, {'compiled': True}),
    'inheritance': Probe(True, {'mmssl': True, 'mmseg': True}),
}


def environment(versions=(), owners=(), probes=(), drop=(), **fields) -> Environment:
    """A whole environment with some entries replaced, and the named ones taken out everywhere."""

    def keep(table, changes):
        return {key: value for key, value in {**table, **dict(changes)}.items() if key not in drop}

    return Environment(
        fields.pop('python', (3, 11)),
        keep(VERSIONS, versions),
        keep(OWNERS, owners),
        keep(PROBES, probes),
        **fields,
    )


def findings_of(env, level):
    return {finding.subject: finding for finding in doctor.diagnose(env) if finding.level == level}


def test_whole_environment_has_neither_notes_nor_faults():
    findings = doctor.diagnose(environment())
    assert {finding.level for finding in findings} == {'ok'}
    assert {'mmssl', 'configs', 'python', 'torch', 'torchvision', 'flavour', 'mmcv ops', 'inheritance'} <= {
        f.subject for f in findings
    }
    assert doctor.report(findings).endswith('nothing is broken')


def test_patches_are_listed_or_off():
    report = doctor.report(doctor.diagnose(environment()))
    for patch in PATCHES:
        assert f'{patch.name}: {patch.reason}' in report
    off = environment(patched=False, probes={'inheritance': Probe(True, {'mmssl': True, 'mmseg': False})})
    notes = findings_of(off, 'note')
    assert set(notes) == {'patches', 'inheritance'} and 'off' in notes['patches'].text
    assert notes['patches'].fix == 'unset MMSSL_NO_PATCH'


@pytest.mark.parametrize(
    ('env', 'subject', 'text', 'fix'),
    [
        (environment(python=(3, 9)), 'python', '3.9', 'PYTHON='),
        (environment(python=(3, 13)), 'python', '3.13', 'PYTHON='),
        (environment(versions={'numpy': '1.24.4'}), 'numpy', '1.24.4', "pip install 'numpy>=1.26'"),
        (environment(configs=None), 'configs', 'none found', 'pip install'),
        (environment(drop=['torch']), 'torch', 'missing', "pip install 'torch>=2.6' torchvision"),
        (environment(versions={'torch': '2.5.1'}), 'torch', '2.5.1', "-U 'torch>=2.6'"),
        (
            environment(probes={'torch': Probe(False, error='OSError: libcudart.so.13')}),
            'torch',
            'libcudart',
            '--force-reinstall torch==2.11.0',
        ),
        (environment(versions={'torchvision': '0.21.0'}), 'torchvision', '0.26', 'torchvision==0.26.*'),
        (
            environment(
                versions={'torch': '2.13.0+cpu', 'torchvision': '0.28.0'},
                probes={
                    'torchvision': Probe(
                        False, error='RuntimeError: operator torchvision::nms does not exist'
                    )
                },
            ),
            'torchvision',
            'nms',
            'torchvision==0.28.* --index-url https://download.pytorch.org/whl/cpu',
        ),
        (
            environment(versions={'mmcv': '2.2.0'}, owners={'mmcv': ['mmcv', 'onedl-mmcv']}),
            'mmcv',
            'two distributions own it: mmcv, onedl-mmcv',
            'pip uninstall -y mmcv onedl-mmcv && python -m pip install onedl-mmcv==2.3.6',
        ),
        (
            environment(drop=['mmengine', 'onedl-mmengine', 'inheritance']),
            'mmengine',
            'missing',
            "pip install 'mmssl[onedl]'",
        ),
        (
            environment(probes={'mmdet': Probe(False, error='AssertionError: MMCV==2.2.0 is used')}),
            'mmdet',
            'MMCV==2.2.0',
            'onedl-mmdetection==3.5.1',
        ),
        (
            environment(probes={'ops': Probe(False, error='ImportError: undefined symbol')}),
            'mmcv ops',
            'undefined symbol',
            '--no-build-isolation',
        ),
        (
            environment(probes={'inheritance': Probe(True, {'mmssl': False, 'mmseg': True})}),
            'inheritance',
            'mmssl::',
            'pip install',
        ),
        (
            environment(probes={'inheritance': Probe(False, error='ImportError: x')}),
            'registry',
            'ImportError: x',
            'pip install',
        ),
        (
            environment(
                probes={
                    'torch': Probe(True, {'cuda': '13.0', 'devices': ['H200']}),
                    'gpu': Probe(False, error='no kernel image'),
                }
            ),
            'gpu',
            'no kernel image',
            'nvidia-smi',
        ),
    ],
)
def test_each_fault_is_named_with_its_fix(env, subject, text, fix):
    broken = findings_of(env, 'broken')
    assert set(broken) == {subject}
    assert text in broken[subject].text
    assert fix in broken[subject].fix
    assert doctor.report(doctor.diagnose(env)).endswith('1 broken')


@pytest.mark.parametrize(
    ('env', 'subject', 'text', 'fix'),
    [
        (
            environment(drop=['mmdet', 'onedl-mmdetection']),
            'mmdet',
            'detection needs it',
            "pip install 'mmssl[det]'",
        ),
        (
            environment(drop=['mmseg', 'onedl-mmsegmentation']),
            'mmseg',
            'segmentation needs it',
            "pip install 'mmssl[seg]'",
        ),
        (
            environment(probes={'ops': Probe(True, {'compiled': False})}),
            'mmcv ops',
            'most detectors and segmentors work',
            'mmwheels.onedl.ai/cpu-torch2110/simple onedl-mmcv==2.3.6',
        ),
        (
            environment(
                probes={
                    'ops': Probe(True, {'compiled': False}),
                    'torch': Probe(True, {'cuda': '13.0', 'devices': []}),
                }
            ),
            'mmcv ops',
            'not compiled',
            'cu130-torch2110',
        ),
        (
            environment(
                versions={'opencv-python': '4.12.0', 'opencv-python-headless': '4.11.0'},
                owners={'cv2': ['opencv-python', 'opencv-python-headless']},
            ),
            'cv2',
            'last one installed wins',
            'opencv-python==4.12.0 opencv-python-headless==4.12.0',
        ),
        (environment(versions={'onedl-mim': '0.5.1'}), 'mim', 'onedl-mim 0.5.1', 'mmssl doctor --mim'),
        (
            environment(versions={'mmsegmentation': '1.2.2'}, owners={'mmseg': ['mmsegmentation']}),
            'flavour',
            'mixed',
            'uninstall -y mmsegmentation && '
            'python -m pip install --force-reinstall --no-deps onedl-mmsegmentation',
        ),
    ],
)
def test_what_is_missing_but_optional_is_a_note(env, subject, text, fix):
    assert findings_of(env, 'broken') == {}
    notes = findings_of(env, 'note')
    assert set(notes) == {subject}
    assert text in notes[subject].text
    assert fix in notes[subject].fix


def test_upstream_flavour_needs_old_setuptools():
    owners = {module: [module] for module in OWNERS}
    versions = {
        **dict.fromkeys(OWNERS, '1.0'),
        'numpy': '2.0',
        'torch': '2.11.0',
        'torchvision': '0.26.0',
    }
    upstream = environment(
        versions=versions, owners=owners, drop=[name for name in VERSIONS if name.startswith('onedl')]
    )
    assert {f.subject: f.text for f in doctor.diagnose(upstream)}['flavour'].startswith('upstream')
    assert findings_of(upstream, 'broken') == {}
    new = dataclasses.replace(upstream, versions={**upstream.versions, 'setuptools': '82.0.1'})
    assert "'setuptools<82'" in findings_of(new, 'broken')['setuptools'].fix


def test_toolboxes_wait_for_torch():
    env = environment(probes={name: Probe(False, error='ImportError: no torch') for name in doctor.PROBES})
    assert set(findings_of(env, 'broken')) == {'torch'}
    assert 'fix torch' in findings_of(env, 'note')['toolboxes'].text


def test_probes_survive_a_crash_an_exit_and_noise():
    outcome = doctor.run_probes(
        [
            ('noise', 'import os; print("x"); os.write(1, b"no newline"); value = {"a": 1}'),
            ('crash', 'import os, signal; os.kill(os.getpid(), signal.SIGKILL)'),
            ('exit', 'raise SystemExit("left")'),
            ('error', 'import nothing_of_this_name'),
            ('fine', 'value = {"b": 2}'),
        ]
    )
    assert outcome['noise'] == Probe(True, {'a': 1})
    assert not outcome['crash'].ok and 'status -9' in outcome['crash'].error
    assert outcome['exit'].error == 'SystemExit: left'
    assert outcome['error'].error == "ModuleNotFoundError: No module named 'nothing_of_this_name'"
    assert outcome['fine'] == Probe(True, {'b': 2})


def test_probe_that_hangs_is_a_failure():
    outcome = doctor.run_probes([('fine', 'pass'), ('hang', 'import time; time.sleep(60)')], timeout=3)
    assert outcome == {'fine': Probe(True), 'hang': Probe(False, error='no answer after 3 s')}


def test_real_environment(run_cli, tmp_path):
    done = run_cli('doctor', cwd=tmp_path)
    assert ' mmengine ' in done.stdout and ' torch ' in done.stdout, done.stderr
    broken = [line for line in done.stdout.splitlines() if line.startswith('BROKEN')]
    assert (done.returncode, broken) == (0, [])


def test_second_owner_of_mmcv_in_a_real_environment(tmp_path, monkeypatch, capsys):
    """Its distributions are the real ones; the imports, which take seconds, are those of a whole one."""
    info = tmp_path / 'mmcv-2.2.0.dist-info'
    info.mkdir()
    (info / 'METADATA').write_text('Metadata-Version: 2.1\nName: mmcv\nVersion: 2.2.0\n')
    (info / 'top_level.txt').write_text('mmcv\n')
    (info / 'RECORD').write_text('mmcv/__init__.py,,\n')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(probes, 'run_probes', lambda named: {name: PROBES[name] for name, _ in named})
    assert main(['doctor']) == 1
    output = capsys.readouterr().out
    (line,) = [line for line in output.splitlines() if line.startswith('BROKEN')]
    assert 'two distributions own it' in line
    assert line.startswith('BROKEN  mmcv') and 'mmcv, onedl-mmcv' in line
    assert 'pip uninstall -y mmcv onedl-mmcv' in output
