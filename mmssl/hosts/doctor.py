"""Checks of the installation. They read an :class:`Environment`, so that a broken one can be made up.

Distributions are read from their metadata; what can fail or crash on import is imported in a child process,
never in this one.
"""

import dataclasses
import importlib.metadata
import importlib.util
import json
import re
import subprocess
import sys

from mmssl import __version__
from mmssl.config import paths
from mmssl.hosts import compat, mim

USES = {
    'mmengine': 'everything but list and doctor',
    'mmcv': 'the data pipelines of the hosts',
    'mmpretrain': 'pre-training, fine-tuning and probing',
    'mmdet': 'detection',
    'mmseg': 'segmentation',
}
EXTRAS = {'mmengine': 'onedl', 'mmcv': 'onedl', 'mmpretrain': 'onedl', 'mmdet': 'det', 'mmseg': 'seg'}
PIP = 'python -m pip'


@dataclasses.dataclass(frozen=True)
class Probe:
    """Outcome of a piece of code run in a child: ``value`` is what it set, ``error`` one line when it failed."""

    ok: bool
    value: dict = dataclasses.field(default_factory=dict)
    error: str = ''


@dataclasses.dataclass(frozen=True)
class Environment:
    """What the checks look at.

    Attributes:
        python: version of the interpreter, (major, minor).
        versions: distribution -> version; names in lower case with dashes.
        owners: import name -> distributions that own it; only of the toolboxes and cv2.
        probes: name in :data:`PROBES` -> outcome; no entry for what is not installed.
        installed: how mmssl is installed: 'editable', 'wheel', or 'checkout' (run from it without being
            installed).
        configs: number of config files found, or None when their folder is missing.
        in_mim: whether onedl-mim would find an installed wheel.
    """

    python: tuple[int, int]
    versions: dict[str, str]
    owners: dict[str, list[str]]
    probes: dict[str, Probe]
    installed: str = 'wheel'
    configs: int | None = 1
    in_mim: bool = False


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line of the report: ``level`` is 'ok', 'note' or 'broken'; ``cure`` the command to type."""

    level: str
    subject: str
    text: str
    cure: str = ''


# name -> (module that must exist, code that may set `value`)
PROBES = {
    'torch': (
        'torch',
        'import torch\n'
        'cuda = torch.cuda.is_available()\n'
        'value = dict(cuda=torch.version.cuda, devices=[torch.cuda.get_device_name(i) '
        'for i in range(torch.cuda.device_count())] if cuda else [])',
    ),
    'gpu': (
        'torch',
        'import torch\n'
        'if torch.cuda.is_available(): torch.ones(8, 8, device="cuda").mm(torch.ones(8, 8, device="cuda")).sum().item()',
    ),
    'torchvision': (
        'torchvision',
        'import torch, torchvision\n'
        'torchvision.ops.nms(torch.tensor([[0., 0., 1., 1.]]), torch.ones(1), 0.5)',
    ),
    'mmengine': ('mmengine', 'import mmengine, mmengine.runner'),
    'mmcv': ('mmcv', 'import mmcv'),
    'ops': (
        'mmcv',
        'import importlib.util, mmcv\n'
        'from mmssl.hosts import compat\n'
        'there = importlib.util.find_spec("mmcv._ext") is not None\n'
        'value = dict(compiled=there and not compat.ops_are_hidden(), hidden=there and compat.ops_are_hidden())\n'
        'compat.stand_in_for_ops()\n'
        'import mmcv.ops',
    ),
    'mmpretrain': ('mmpretrain', 'import mmpretrain'),
    'mmdet': ('mmdet', 'import mmdet'),
    'mmseg': ('mmseg', 'import mmseg'),
    'inheritance': (
        'mmengine',
        'import importlib.util, os, mmssl.registry\n'
        'from mmengine.config.utils import MODULE2PACKAGE\n'
        'from mmengine.utils import get_installed_path\n'
        'def reach(scope):\n'
        '    try: return os.path.isdir(os.path.join(get_installed_path(MODULE2PACKAGE[scope]), ".mim", "configs"))\n'
        '    except Exception: return False\n'
        'value = {s: reach(s) for s in ("mmssl", "mmpretrain", "mmdet", "mmseg") if importlib.util.find_spec(s)}',
    ),
}

_CHILD = """
import contextlib, io, json, sys, warnings
path, probes = json.loads(sys.argv[1])
sys.path[:] = path
warnings.simplefilter('ignore')
for name, code in probes:
    scope, error = {}, ''
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            exec(code, scope)
    except BaseException as caught:
        lines = str(caught).strip().splitlines() or ['']
        error = f'{type(caught).__name__}: {lines[0]}'[:300]
    print('\\nprobe ' + json.dumps([name, scope.get('value') or {}, error]), flush=True)
"""


def run_probes(probes: list[tuple[str, str]], timeout: float = 300) -> dict[str, Probe]:
    """Run pieces of code one after the other in a child process.

    Args:
        probes: (name, code) each; the code may set ``value`` to a dict that JSON can hold.
        timeout: seconds for all of them.

    Returns:
        name -> outcome. A piece that kills the process is a failure that names the signal; the rest then runs
        in a new child.
    """
    outcome: dict[str, Probe] = {}
    left = list(probes)
    while left:
        command = [sys.executable, '-c', _CHILD, json.dumps([sys.path, left])]
        try:
            child = subprocess.run(command, capture_output=True, text=True, errors='replace', timeout=timeout)
            output, reason = child.stdout, f'the process died with status {child.returncode}'
        except subprocess.TimeoutExpired as expired:
            output, reason = (
                (expired.stdout or b'').decode(errors='replace'),
                f'no answer after {timeout:g} s',
            )
        for line in output.splitlines():
            if line.startswith('probe '):
                name, value, error = json.loads(line[len('probe ') :])
                outcome[name] = Probe(not error, value, error)
        left = [(name, code) for name, code in left if name not in outcome]
        if left:
            outcome[left.pop(0)[0]] = Probe(False, error=reason)
    return outcome


def normalise(name: str) -> str:
    """The distribution's name in lower case with single dashes (PEP 503)."""
    return re.sub(r'[-_.]+', '-', name).lower()


def look() -> Environment:
    """The environment this process runs in. Takes some seconds: torch and the toolboxes are imported in a child."""
    versions: dict[str, str] = {}
    editable = False
    for distribution in importlib.metadata.distributions():
        if not distribution.metadata['Name']:  # what an interrupted pip leaves behind
            continue
        name = normalise(distribution.metadata['Name'])
        versions.setdefault(name, distribution.version)  # the first on the path is the one that is imported
        if name == 'mmssl':
            editable |= (
                json.loads(distribution.read_text('direct_url.json') or '{}')
                .get('dir_info', {})
                .get('editable', False)
            )
    owners = {module: names for module in (*compat.HOSTS, 'cv2') if (names := compat.owners_of(module))}
    probes = [
        (name, code)
        for name, (module, code) in PROBES.items()
        if importlib.util.find_spec(module) is not None
    ]
    try:
        configs = sum('_base_' not in path.parts for path in paths.config_root().rglob('*.py'))
    except FileNotFoundError:
        configs = None
    # a checkout may hold metadata of its own (mmssl.egg-info), which says nothing about how it is installed
    checkout = (paths.PACKAGE.parent / 'setup.cfg').is_file()
    installed = 'editable' if checkout and editable else 'checkout' if checkout else 'wheel'
    return Environment(
        sys.version_info[:2], versions, owners, run_probes(probes), installed, configs, mim.is_found()
    )


def diagnose(env: Environment) -> list[Finding]:
    """All checks, in the order in which a person would mend things."""
    findings = [*_package(env), *_torch(env), *_owners(env), *_flavour(env)]
    if _is_broken(findings, 'torch', 'torchvision'):
        findings.append(Finding('note', 'toolboxes', 'not imported: mend torch and torchvision first'))
    else:
        findings += [*_hosts(env), *_ops(env), *_inheritance(env)]
    return findings


def report(findings: list[Finding]) -> str:
    """The findings as text: a mark, the subject, the text, and the cure on a line of its own."""
    marks = {'ok': 'ok    ', 'note': 'note  ', 'broken': 'BROKEN'}
    width = max(len(finding.subject) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f'{marks[finding.level]}  {finding.subject:<{width}}  {finding.text}')
        if finding.cure:
            lines.append(f'{"":8}{"":{width}}  cure: {finding.cure}')
    broken = sum(finding.level == 'broken' for finding in findings)
    lines.append(f'{broken} broken' if broken else 'nothing is broken')
    return '\n'.join(lines)


def _is_broken(findings: list[Finding], *subjects: str) -> bool:
    return any(finding.level == 'broken' and finding.subject in subjects for finding in findings)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r'\d+', version.partition('+')[0])[:3])


def _package(env: Environment) -> list[Finding]:
    findings = [Finding('ok', 'mmssl', f'{__version__}, {env.installed}')]
    if env.configs:
        findings.append(Finding('ok', 'configs', f'{env.configs} found'))
    else:
        findings.append(
            Finding(
                'broken',
                'configs',
                'none found beside the code',
                f'{PIP} install --force-reinstall --no-deps mmssl, or in a clone: {PIP} install -e .',
            )
        )
    if 'onedl-mim' in env.versions and env.installed == 'wheel' and not env.in_mim:
        findings.append(
            Finding(
                'note',
                'mim',
                f'onedl-mim {env.versions["onedl-mim"]} does not find mmssl; '
                '`mmssl train` is the same as `mim train mmssl`',
                'mmssl doctor --mim',
            )
        )
    python = '.'.join(map(str, env.python))
    if (3, 10) <= env.python < (3, 13):
        findings.append(Finding('ok', 'python', python))
    else:
        findings.append(
            Finding(
                'broken',
                'python',
                f'{python}; mmssl needs 3.10, 3.11 or 3.12',
                'make install PYTHON=/path/to/python3.11',
            )
        )
    numpy = env.versions.get('numpy')
    if numpy is None or _numbers(numpy) < (1, 26):
        findings.append(
            Finding(
                'broken',
                'numpy',
                f'{numpy or "missing"}; mmssl needs 1.26 or later',
                f"{PIP} install 'numpy>=1.26'",
            )
        )
    else:
        findings.append(Finding('ok', 'numpy', numpy))
    return findings


def _index(torch: str) -> str:
    """pip's option for the index a build of torch came from: '+cpu' and '+cu130' are not on PyPI."""
    build = torch.partition('+')[2]
    return f' --index-url https://download.pytorch.org/whl/{build}' if build else ''


def _torch(env: Environment) -> list[Finding]:
    torch = env.versions.get('torch')
    if torch is None:
        return [Finding('broken', 'torch', 'missing', f"{PIP} install 'torch>=2.6' torchvision")]
    if _numbers(torch) < (2, 6):
        return [
            Finding(
                'broken',
                'torch',
                f'{torch}; mmssl needs 2.6 or later',
                f"{PIP} install -U 'torch>=2.6' torchvision",
            )
        ]
    probe = env.probes.get('torch', Probe(False, error='no module torch'))
    if not probe.ok:
        return [
            Finding(
                'broken',
                'torch',
                f'{torch} does not import: {probe.error}',
                f'{PIP} install --force-reinstall torch=={torch}{_index(torch)}',
            )
        ]
    findings = [
        Finding(
            'ok',
            'torch',
            f'{torch}, CUDA {probe.value["cuda"]}' if probe.value.get('cuda') else f'{torch}, CPU build',
        )
    ]
    devices = probe.value.get('devices') or []
    gpu = env.probes.get('gpu', Probe(True))
    if devices and not gpu.ok:
        findings.append(
            Finding(
                'broken',
                'gpu',
                f'{", ".join(devices)}: a matrix product fails: {gpu.error}',
                'nvidia-smi, then a torch built for this GPU and driver: https://pytorch.org/get-started/locally',
            )
        )
    else:
        findings.append(Finding('ok', 'gpu', ', '.join(devices) or 'none; training runs on the CPU'))
    return findings + _torchvision(env, torch)


def _torchvision(env: Environment, torch: str) -> list[Finding]:
    vision = env.versions.get('torchvision')
    # since torch 2.0 / torchvision 0.15 the minor versions go up together
    major, minor = _numbers(torch)[:2]
    wanted = f'0.{minor + 15}' if major == 2 else None
    cure = f'{PIP} install --force-reinstall --no-deps torchvision{f"=={wanted}.*" if wanted else ""}{_index(torch)}'
    if vision is None:
        return [
            Finding(
                'note',
                'torchvision',
                'missing; the toolboxes need it',
                cure.replace(' --force-reinstall', ''),
            )
        ]
    if wanted and '.'.join(map(str, _numbers(vision)[:2])) != wanted:
        return [
            Finding('broken', 'torchvision', f'{vision} is not made for torch {torch}, {wanted} is', cure)
        ]
    probe = env.probes.get('torchvision', Probe(False, error='no module torchvision'))
    if not probe.ok:
        return [
            Finding(
                'broken', 'torchvision', f'{vision} does not work with torch {torch}: {probe.error}', cure
            )
        ]
    return [Finding('ok', 'torchvision', vision)]


def _owners(env: Environment) -> list[Finding]:
    findings = []
    for module, names in env.owners.items():
        if len(names) < 2:
            continue
        if module == 'cv2':
            # the hosts ask for both; harmless while the versions are the same, because the files are
            listed = ' and '.join(f'{name} {env.versions[name]}' for name in names)
            newest = max((env.versions[name] for name in names), key=_numbers)
            same = all(env.versions[name] == newest for name in names)
            text = f'{listed} share its files' + (
                ', of one version' if same else '; the last one installed wins'
            )
            pins = ' '.join(f'{name}=={newest}' for name in names)
            findings.append(
                Finding(
                    'note', 'cv2', text, '' if same else f'{PIP} install --force-reinstall --no-deps {pins}'
                )
            )
            continue
        keep = next(name for name in (*compat.DISTRIBUTIONS[module], *names) if name in names)
        findings.append(
            Finding(
                'broken',
                module,
                f'two distributions own it: {", ".join(names)}; their files overwrite each other',
                f'{PIP} uninstall -y {" ".join(names)} && {PIP} install {keep}=={env.versions[keep]}',
            )
        )
    return findings


def _flavour(env: Environment) -> list[Finding]:
    fork = {
        module
        for module in compat.HOSTS
        if any(name.startswith('onedl-') for name in env.owners.get(module, ()))
    }
    upstream = {
        module
        for module in compat.HOSTS
        if any(not name.startswith('onedl-') for name in env.owners.get(module, ()))
    }
    if fork and upstream:
        wrong = [name for module in upstream for name in env.owners[module] if not name.startswith('onedl-')]
        wanted = [compat.DISTRIBUTIONS[module][0] for module in compat.HOSTS if module in upstream]
        return [
            Finding(
                'note',
                'flavour',
                f'mixed: OneDL {", ".join(sorted(fork))}; upstream {", ".join(sorted(upstream))}',
                f'{PIP} uninstall -y {" ".join(sorted(wrong))} && {PIP} install --force-reinstall --no-deps {" ".join(wanted)}',
            )
        ]
    if upstream:
        findings = [Finding('ok', 'flavour', 'upstream OpenMMLab (OneDL is the tested one)')]
        setuptools = env.versions.get('setuptools')
        if setuptools is None or _numbers(setuptools)[0] >= compat.UPSTREAM_SETUPTOOLS:
            text = f'{setuptools or "missing"}; upstream mmengine needs pkg_resources, which {compat.UPSTREAM_SETUPTOOLS} dropped'
            findings.append(
                Finding(
                    'broken', 'setuptools', text, f"{PIP} install 'setuptools<{compat.UPSTREAM_SETUPTOOLS}'"
                )
            )
        return findings
    return [
        Finding('ok', 'flavour', 'OneDL')
        if fork
        else Finding('note', 'flavour', 'no OpenMMLab toolbox is installed')
    ]


def _hosts(env: Environment) -> list[Finding]:
    findings = []
    for module, use in USES.items():
        names = env.owners.get(module)
        cure = f"{PIP} install 'mmssl[{EXTRAS[module]}]'"
        if not names and module not in env.probes:
            findings.append(
                Finding(
                    'broken' if module == 'mmengine' else 'note', module, f'missing; {use} needs it', cure
                )
            )
            continue
        label = (
            ', '.join(f'{name} {env.versions[name]}' for name in names)
            if names
            else 'no distribution owns it (a folder on the path?)'
        )
        probe = env.probes.get(module, Probe(False, error=f'no module {module}'))
        if not probe.ok:
            source = names[0] if names else f'mmssl[{EXTRAS[module]}]'
            pin = f'=={env.versions[source]}' if source in env.versions else ''
            findings.append(
                Finding(
                    'broken',
                    module,
                    f'{label} does not import: {probe.error}',
                    f"{PIP} install --force-reinstall --no-deps '{source}{pin}'",
                )
            )
        elif names is None or len(names) == 1:
            findings.append(Finding('ok' if names else 'note', module, label))
    return findings


def _ops(env: Environment) -> list[Finding]:
    probe, mmcv = env.probes.get('ops'), env.probes.get('mmcv')
    if probe is None or mmcv is None or not mmcv.ok:
        return []
    if probe.ok and probe.value.get('compiled'):
        return [Finding('ok', 'mmcv ops', 'compiled')]
    name = (env.owners.get('mmcv') or ['onedl-mmcv'])[0]
    cuda = env.probes['torch'].value.get('cuda') if 'torch' in env.probes else None
    cure = compat.ops_command(name, env.versions.get(name), env.versions.get('torch', ''), cuda)
    use = "mmssl's stand-in is in use: R-FCN, Faster R-CNN, Mask R-CNN and deformable backbones work; other detection needs them"
    if probe.value.get('hidden'):
        return [Finding('note', 'mmcv ops', f'MMSSL_NO_EXT is set; {use}', 'unset MMSSL_NO_EXT')]
    if probe.ok:
        return [Finding('note', 'mmcv ops', f'not compiled; {use}', cure)]
    return [
        Finding(
            'broken',
            'mmcv ops',
            f'compiled for another torch or Python: {probe.error}',
            f'{cure}; or do without: MMSSL_NO_EXT=1',
        )
    ]


def _inheritance(env: Environment) -> list[Finding]:
    probe = env.probes.get('inheritance')
    if probe is None:
        return []
    cure = f'{PIP} install --force-reinstall --no-deps mmssl, or in a clone: {PIP} install -e .'
    if not probe.ok:
        return [Finding('broken', 'registry', f'mmssl.registry does not import: {probe.error}', cure)]
    lost = [scope for scope, found in probe.value.items() if not found]
    if lost:
        return [
            Finding(
                'broken',
                'inheritance',
                f'_base_ cannot reach {", ".join(f"{scope}::" for scope in lost)}',
                cure,
            )
        ]
    return [
        Finding('ok', 'inheritance', '_base_ reaches ' + ', '.join(f'{scope}::' for scope in probe.value))
    ]
