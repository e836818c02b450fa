"""The environment that ``mmssl doctor`` examines: distributions, their owners, and the outcome of imports.

Distributions are read from their metadata. What can fail or crash on import is imported in a child process,
never in this one.
"""

import dataclasses
import importlib.metadata
import importlib.util
import json
import re
import subprocess
import sys

from mmssl.hosts import mim
from mmssl.hosts.distributions import TOOLBOXES, owners_of
from mmssl.hosts.patches import patches_are_off


@dataclasses.dataclass(frozen=True)
class Probe:
    """Outcome of a piece of code that was run in a child process.

    Attributes:
        ok: Whether it ran to its end.
        value: What it assigned to ``value``.
        error: One line about the failure.
    """

    ok: bool
    value: dict = dataclasses.field(default_factory=dict)
    error: str = ''


@dataclasses.dataclass(frozen=True)
class Environment:
    """Everything that the checks depend on.

    Attributes:
        python: Version of the interpreter, (major, minor).
        versions: Distribution -> version; names in lower case with dashes.
        owners: Import name -> distributions that contain it, for the toolboxes and cv2.
        probes: Name in :data:`PROBES` -> outcome; no entry for a package that is not installed.
        installed: How mmssl is installed: 'editable', 'wheel', or 'checkout' (run without being installed).
        configs: Number of configs, or None if their folder is missing.
        in_mim: Whether onedl-mim finds an installed wheel.
        patched: Whether mmssl patches the toolboxes.
    """

    python: tuple[int, int]
    versions: dict[str, str]
    owners: dict[str, list[str]]
    probes: dict[str, Probe]
    installed: str = 'wheel'
    configs: int | None = 1
    in_mim: bool = False
    patched: bool = True


# name -> (module that must be installed, code that may assign `value`)
PROBES = {
    'torch': (
        'torch',
        """
import torch
devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else []
value = dict(cuda=torch.version.cuda, devices=[torch.cuda.get_device_name(device) for device in devices])
""",
    ),
    'gpu': (
        'torch',
        """
import torch
if torch.cuda.is_available():
    matrix = torch.ones(8, 8, device='cuda')
    matrix.mm(matrix).sum().item()
""",
    ),
    'torchvision': (
        'torchvision',
        """
import torch, torchvision
torchvision.ops.nms(torch.tensor([[0., 0., 1., 1.]]), torch.ones(1), 0.5)
""",
    ),
    'mmengine': ('mmengine', 'import mmengine, mmengine.runner'),
    'mmcv': ('mmcv', 'import mmcv'),
    'ops': (
        'mmcv',
        """
import importlib.util, mmcv
from mmssl.hosts import ops_import, patches
installed, hidden = importlib.util.find_spec('mmcv._ext') is not None, ops_import.ops_are_hidden()
value = dict(compiled=installed and not hidden, hidden=installed and hidden)
if not patches.patches_are_off():
    ops_import.stand_in_for_ops()
import mmcv.ops
""",
    ),
    'mmpretrain': ('mmpretrain', 'import mmpretrain'),
    'mmdet': ('mmdet', 'import mmdet'),
    'mmseg': ('mmseg', 'import mmseg'),
    'inheritance': (
        'mmengine',
        """
import importlib.util, os, mmssl.registry
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.utils import get_installed_path

def reaches(scope):
    try:
        return os.path.isdir(os.path.join(get_installed_path(MODULE2PACKAGE[scope]), '.mim', 'configs'))
    except Exception:
        return False

scopes = [scope for scope in ('mmssl', 'mmpretrain', 'mmdet', 'mmseg') if importlib.util.find_spec(scope)]
value = {scope: reaches(scope) for scope in scopes}
""",
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
        probes: (name, code) pairs; the code may assign a dict that JSON can represent to ``value``.
        timeout: Seconds allowed for all of them.

    Returns:
        Name -> outcome. A piece that kills the process is a failure that names the signal; the rest then runs
        in a new child.
    """
    outcomes: dict[str, Probe] = {}
    left = list(probes)
    while left:
        command = [sys.executable, '-c', _CHILD, json.dumps([sys.path, left])]
        try:
            child = subprocess.run(command, capture_output=True, text=True, errors='replace', timeout=timeout)
            output = child.stdout
            reason = f'the process died with status {child.returncode}'
        except subprocess.TimeoutExpired as expired:
            output = (expired.stdout or b'').decode(errors='replace')
            reason = f'no answer after {timeout:g} s'
        for line in output.splitlines():
            if line.startswith('probe '):
                name, value, error = json.loads(line[len('probe ') :])
                outcomes[name] = Probe(not error, value, error)
        left = [(name, code) for name, code in left if name not in outcomes]
        if left:
            outcomes[left.pop(0)[0]] = Probe(False, error=reason)
    return outcomes


def normalized(name: str) -> str:
    """Return the name of a distribution in lower case with single dashes (PEP 503)."""
    return re.sub(r'[-_.]+', '-', name).lower()


def read_environment() -> Environment:
    """Read the environment of this process.

    Takes some seconds: torch and the toolboxes are imported in a child process.
    """
    versions: dict[str, str] = {}
    editable = False
    for distribution in importlib.metadata.distributions():
        if not distribution.metadata['Name']:  # a remainder of an interrupted pip
            continue
        name = normalized(distribution.metadata['Name'])
        versions.setdefault(name, distribution.version)  # the first on the path is the one that is imported
        if name == 'mmssl':
            origin = json.loads(distribution.read_text('direct_url.json') or '{}')
            editable |= origin.get('dir_info', {}).get('editable', False)
    owners = {module: names for module in (*TOOLBOXES, 'cv2') if (names := owners_of(module))}
    probes = [(name, code) for name, (module, code) in PROBES.items() if importlib.util.find_spec(module)]
    try:
        configs = sum('_base_' not in path.parts for path in mim.config_root().rglob('*.py'))
    except FileNotFoundError:
        configs = None
    # a checkout may have metadata of its own (mmssl.egg-info), which do not say how it is installed
    checkout = (mim.PACKAGE.parent / 'setup.cfg').is_file()
    return Environment(
        python=sys.version_info[:2],
        versions=versions,
        owners=owners,
        probes=run_probes(probes),
        installed='wheel' if not checkout else 'editable' if editable else 'checkout',
        configs=configs,
        in_mim=mim.finds_package(),
        patched=not patches_are_off(),
    )
