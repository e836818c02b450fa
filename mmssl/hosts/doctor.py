"""Checks of the installation, made on an :class:`Environment`, and their report."""

import dataclasses
import re

from mmssl import __version__
from mmssl.hosts.distributions import DISTRIBUTIONS, TOOLBOXES, UPSTREAM_SETUPTOOLS
from mmssl.hosts.ops_import import ops_command
from mmssl.hosts.patches import PATCHES
from mmssl.hosts.probes import PROBES, Environment, Probe, read_environment, run_probes

__all__ = [
    'PROBES',
    'Environment',
    'Finding',
    'Probe',
    'diagnose',
    'read_environment',
    'report',
    'run_probes',
]

USES = {
    'mmengine': 'everything but list and doctor',
    'mmcv': 'the data pipelines of the toolboxes',
    'mmpretrain': 'pre-training, fine-tuning and probing',
    'mmdet': 'detection',
    'mmseg': 'segmentation',
}
EXTRAS = {'mmengine': 'onedl', 'mmcv': 'onedl', 'mmpretrain': 'onedl', 'mmdet': 'det', 'mmseg': 'seg'}
PIP = 'python -m pip'
REINSTALL = f'{PIP} install --force-reinstall --no-deps mmssl, or in a clone: {PIP} install -e .'
OPERATORS = 'most detectors and segmentors'


@dataclasses.dataclass(frozen=True)
class Finding:
    """One entry of the report.

    Attributes:
        level: 'ok', 'note' or 'broken'.
        subject: What was checked.
        text: The outcome.
        fix: The command to type.
        details: Further lines.
    """

    level: str
    subject: str
    text: str
    fix: str = ''
    details: tuple[str, ...] = ()


def _ok(subject: str, text: str, **kwargs) -> Finding:
    return Finding('ok', subject, text, **kwargs)


def _note(subject: str, text: str, fix: str = '') -> Finding:
    return Finding('note', subject, text, fix)


def _broken(subject: str, text: str, fix: str) -> Finding:
    return Finding('broken', subject, text, fix)


def diagnose(env: Environment) -> list[Finding]:
    """Make all checks, in the order in which the faults should be fixed."""
    findings = [*_package(env), *_interpreter(env), *_torch(env), *_owners(env), *_flavour(env)]
    if any(finding.level == 'broken' and finding.subject in ('torch', 'torchvision') for finding in findings):
        findings.append(_note('toolboxes', 'not imported: fix torch and torchvision first'))
    else:
        findings += [*_toolboxes(env), *_operators(env), *_inheritance(env)]
    return [*findings, _patches(env)]


def report(findings: list[Finding]) -> str:
    """Return the findings as text: level, subject and outcome, with the fix on a line of its own."""
    marks = {'ok': 'ok    ', 'note': 'note  ', 'broken': 'BROKEN'}
    width = max(len(finding.subject) for finding in findings)
    indent = f'{"":8}{"":{width}}  '
    lines = []
    for finding in findings:
        lines.append(f'{marks[finding.level]}  {finding.subject:<{width}}  {finding.text}')
        if finding.fix:
            lines.append(f'{indent}fix: {finding.fix}')
        lines += [indent + detail for detail in finding.details]
    broken = sum(finding.level == 'broken' for finding in findings)
    lines.append(f'{broken} broken' if broken else 'nothing is broken')
    return '\n'.join(lines)


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r'\d+', version.partition('+')[0])[:3])


def _package(env: Environment) -> list[Finding]:
    findings = [_ok('mmssl', f'{__version__}, {env.installed}')]
    if env.configs:
        findings.append(_ok('configs', f'{env.configs} found'))
    else:
        findings.append(_broken('configs', 'none found beside the code', REINSTALL))
    if 'onedl-mim' in env.versions and env.installed == 'wheel' and not env.in_mim:
        text = (
            f'onedl-mim {env.versions["onedl-mim"]} does not find mmssl; '
            '`mmssl train` is the same as `mim train mmssl`'
        )
        findings.append(_note('mim', text, 'mmssl doctor --mim'))
    return findings


def _interpreter(env: Environment) -> list[Finding]:
    python = '.'.join(map(str, env.python))
    numpy = env.versions.get('numpy')
    supported = (3, 10) <= env.python < (3, 13)
    return [
        _ok('python', python)
        if supported
        else _broken(
            'python',
            f'{python}; mmssl needs 3.10, 3.11 or 3.12',
            'make install PYTHON=/path/to/python3.11',
        ),
        _ok('numpy', numpy)
        if numpy is not None and _release(numpy) >= (1, 26)
        else _broken(
            'numpy', f'{numpy or "missing"}; mmssl needs 1.26 or later', f"{PIP} install 'numpy>=1.26'"
        ),
    ]


def _index_option(torch: str) -> str:
    """Return pip's option for the index of a build of torch: '+cpu' and '+cu130' are not on PyPI."""
    build = torch.partition('+')[2]
    return f' --index-url https://download.pytorch.org/whl/{build}' if build else ''


def _torch(env: Environment) -> list[Finding]:
    torch = env.versions.get('torch')
    if torch is None:
        return [_broken('torch', 'missing', f"{PIP} install 'torch>=2.6' torchvision")]
    if _release(torch) < (2, 6):
        text = f'{torch}; mmssl needs 2.6 or later'
        return [_broken('torch', text, f"{PIP} install -U 'torch>=2.6' torchvision")]
    probe = env.probes.get('torch', Probe(False, error='no module torch'))
    if not probe.ok:
        fix = f'{PIP} install --force-reinstall torch=={torch}{_index_option(torch)}'
        return [_broken('torch', f'{torch} does not import: {probe.error}', fix)]
    cuda = probe.value.get('cuda')
    build = _ok('torch', f'{torch}, CUDA {cuda}' if cuda else f'{torch}, CPU build')
    return [build, _gpu(env, probe.value.get('devices') or []), _torchvision(env, torch)]


def _gpu(env: Environment, devices: list[str]) -> Finding:
    probe = env.probes.get('gpu', Probe(True))
    if devices and not probe.ok:
        return _broken(
            'gpu',
            f'{", ".join(devices)}: a matrix product fails: {probe.error}',
            'nvidia-smi, then a torch built for this GPU and driver: https://pytorch.org/get-started/locally',
        )
    return _ok('gpu', ', '.join(devices) or 'none; training runs on the CPU')


def _torchvision(env: Environment, torch: str) -> Finding:
    vision = env.versions.get('torchvision')
    # since torch 2.0 and torchvision 0.15 the minor versions increase together
    major, minor = _release(torch)[:2]
    required = f'0.{minor + 15}' if major == 2 else None
    package = f'torchvision=={required}.*' if required else 'torchvision'
    options = f'--no-deps {package}{_index_option(torch)}'
    if vision is None:
        return _note('torchvision', 'missing; the toolboxes need it', f'{PIP} install {options}')
    fix = f'{PIP} install --force-reinstall {options}'
    if required and '.'.join(map(str, _release(vision)[:2])) != required:
        return _broken('torchvision', f'{vision} is not made for torch {torch}, {required} is', fix)
    probe = env.probes.get('torchvision', Probe(False, error='no module torchvision'))
    if not probe.ok:
        return _broken('torchvision', f'{vision} does not work with torch {torch}: {probe.error}', fix)
    return _ok('torchvision', vision)


def _owners(env: Environment) -> list[Finding]:
    findings = []
    for module, names in env.owners.items():
        if len(names) < 2:
            continue
        if module == 'cv2':
            findings.append(_two_opencvs(env, names))
            continue
        preferred = next(name for name in (*DISTRIBUTIONS[module], *names) if name in names)
        text = f'two distributions own it: {", ".join(names)}; their files overwrite each other'
        fix = f'{PIP} uninstall -y {" ".join(names)} && {PIP} install {preferred}=={env.versions[preferred]}'
        findings.append(_broken(module, text, fix))
    return findings


def _two_opencvs(env: Environment, names: list[str]) -> Finding:
    # the toolboxes require both; with equal versions they are harmless, because the files are equal
    listed = ' and '.join(f'{name} {env.versions[name]}' for name in names)
    newest = max((env.versions[name] for name in names), key=_release)
    if all(env.versions[name] == newest for name in names):
        return _note('cv2', f'{listed} share its files, in one version')
    pins = ' '.join(f'{name}=={newest}' for name in names)
    text = f'{listed} share its files; the last one installed wins'
    return _note('cv2', text, f'{PIP} install --force-reinstall --no-deps {pins}')


def _flavour(env: Environment) -> list[Finding]:
    owners = {module: env.owners.get(module, ()) for module in TOOLBOXES}
    onedl = {module for module, names in owners.items() if any(name.startswith('onedl-') for name in names)}
    upstream = {
        module for module, names in owners.items() if any(not name.startswith('onedl-') for name in names)
    }
    if onedl and upstream:
        wrong = [name for module in upstream for name in owners[module] if not name.startswith('onedl-')]
        right = [DISTRIBUTIONS[module][0] for module in TOOLBOXES if module in upstream]
        text = f'mixed: OneDL {", ".join(sorted(onedl))}; upstream {", ".join(sorted(upstream))}'
        fix = f'{PIP} uninstall -y {" ".join(sorted(wrong))} && '
        fix += f'{PIP} install --force-reinstall --no-deps {" ".join(right)}'
        return [_note('flavour', text, fix)]
    if onedl:
        return [_ok('flavour', 'OneDL')]
    if not upstream:
        return [_note('flavour', 'no OpenMMLab toolbox is installed')]
    findings = [_ok('flavour', 'upstream OpenMMLab (OneDL is the tested one)')]
    setuptools = env.versions.get('setuptools')
    if setuptools is None or _release(setuptools)[0] >= UPSTREAM_SETUPTOOLS:
        text = f'{setuptools or "missing"}; upstream mmengine needs pkg_resources, '
        text += f'which {UPSTREAM_SETUPTOOLS} dropped'
        findings.append(_broken('setuptools', text, f"{PIP} install 'setuptools<{UPSTREAM_SETUPTOOLS}'"))
    return findings


def _toolboxes(env: Environment) -> list[Finding]:
    findings = []
    for module, use in USES.items():
        names = env.owners.get(module, [])
        extra = f'mmssl[{EXTRAS[module]}]'
        if not names and module not in env.probes:
            level = 'broken' if module == 'mmengine' else 'note'
            findings.append(Finding(level, module, f'missing; {use} needs it', f"{PIP} install '{extra}'"))
            continue
        label = ', '.join(f'{name} {env.versions[name]}' for name in names)
        label = label or 'no distribution owns it (a folder on the path?)'
        probe = env.probes.get(module, Probe(False, error=f'no module {module}'))
        if not probe.ok:
            source = names[0] if names else extra
            pin = f'=={env.versions[source]}' if source in env.versions else ''
            fix = f"{PIP} install --force-reinstall --no-deps '{source}{pin}'"
            findings.append(_broken(module, f'{label} does not import: {probe.error}', fix))
        elif len(names) < 2:
            findings.append(Finding('ok' if names else 'note', module, label))
    return findings


def _operators(env: Environment) -> list[Finding]:
    probe = env.probes.get('ops')
    mmcv = env.probes.get('mmcv')
    if probe is None or mmcv is None or not mmcv.ok:
        return []
    if probe.ok and probe.value.get('compiled'):
        return [_ok('mmcv ops', 'compiled')]
    name = (env.owners.get('mmcv') or ['onedl-mmcv'])[0]
    cuda = env.probes['torch'].value.get('cuda') if 'torch' in env.probes else None
    fix = ops_command(name, env.versions.get(name), env.versions.get('torch', ''), cuda)
    use = f"mmssl's replacements are in use: {OPERATORS} work; others name the operator that they need"
    if not env.patched and not probe.ok:
        return [_note('mmcv ops', 'not usable, and MMSSL_NO_PATCH leaves out the replacements', fix)]
    if probe.value.get('hidden'):
        return [_note('mmcv ops', f'MMSSL_NO_EXT is set; {use}', 'unset MMSSL_NO_EXT')]
    if probe.ok:
        return [_note('mmcv ops', f'not compiled; {use}', fix)]
    text = f'compiled for another torch or Python: {probe.error}'
    return [_broken('mmcv ops', text, f'{fix}; or use the replacements: MMSSL_NO_EXT=1')]


def _inheritance(env: Environment) -> list[Finding]:
    probe = env.probes.get('inheritance')
    if probe is None:
        return []
    if not probe.ok:
        return [_broken('registry', f'mmssl.registry does not import: {probe.error}', REINSTALL)]
    lost = [f'{scope}::' for scope, reached in probe.value.items() if not reached]
    if lost and not env.patched:
        return [_note('inheritance', f'_base_ cannot reach {", ".join(lost)} without the patches')]
    if lost:
        return [_broken('inheritance', f'_base_ cannot reach {", ".join(lost)}', REINSTALL)]
    return [_ok('inheritance', '_base_ reaches ' + ', '.join(f'{scope}::' for scope in probe.value))]


def _patches(env: Environment) -> Finding:
    if not env.patched:
        return _note('patches', 'off: the toolboxes are as installed', 'unset MMSSL_NO_PATCH')
    details = []
    for patch in PATCHES:
        details.append(f'{patch.name}: {patch.reason}')
        details.append(f'  in {patch.versions}; until {patch.until}')
    text = f'{len(PATCHES)} changes to the toolboxes while mmssl runs; MMSSL_NO_PATCH=1 leaves them out'
    return _ok('patches', text, details=tuple(details))
