"""Files beside the code in the layout of onedl-mim, and the RECORD by which mim finds an installed package.

mim expects ``configs``, ``tools`` and ``model-index.yml`` in a folder ``.mim`` of the package. Release 0.5.1
takes the folder of the first file in the distribution's RECORD for the package's. Installers sort that list,
so that in a wheel with a command the first file is ``../../../bin/mmssl``, and mim searches the folder above
site-packages. The order of RECORD has no meaning (PEP 627), so the package's own files may come first.
"""

import importlib.metadata
import os
import shutil
from pathlib import Path

DISTRIBUTION = 'mmssl'
PACKAGE = Path(__file__).resolve().parents[1]
# where `mim download` keeps checkpoints; a file that is there is not downloaded
CACHE = Path('~/.cache/mim')


def mim_root() -> Path:
    """Return the folder that contains ``configs``, ``tools`` and ``model-index.yml``.

    It is ``mmssl/.mim`` in a wheel and in a checkout with symbolic links, and the checkout itself where git
    could not create links (on Windows it writes small text files in their place).

    Raises:
        FileNotFoundError: Neither has a ``configs`` folder.
    """
    for root in (PACKAGE / '.mim', PACKAGE.parent):
        if (root / 'configs').is_dir():
            return root
    raise FileNotFoundError(
        f'no configs in {PACKAGE / ".mim"} nor in {PACKAGE.parent}; install mmssl again: '
        'pip install --force-reinstall --no-deps mmssl, or pip install -e . in a clone'
    )


def config_root() -> Path:
    """Return the folder of the configs, which has one folder per method.

    Raises:
        FileNotFoundError: The installation has no configs.
    """
    return mim_root() / 'configs'


def record_of(name: str = DISTRIBUTION) -> Path | None:
    """Return the RECORD of an installed distribution; None if it has none (a checkout, an egg)."""
    try:
        files = importlib.metadata.distribution(name).files or []
    except importlib.metadata.PackageNotFoundError:
        return None
    records = [
        Path(file.locate())
        for file in files
        if file.name == 'RECORD' and file.parent.name.endswith('.dist-info')
    ]
    return records[0] if records and records[0].is_file() else None


def finds_package(name: str = DISTRIBUTION) -> bool:
    """Whether mim finds the folder of a package whose distribution has the same name."""
    record = record_of(name)
    return record is not None and record.read_text(encoding='utf-8').startswith(f'{name}/')


def put_package_first(name: str = DISTRIBUTION) -> Path | None:
    """Put the package's own files first in its RECORD, without adding or removing any.

    Returns:
        The RECORD; None if it was in this order already.

    Raises:
        ValueError: The distribution is not installed from a wheel.
        OSError: The file cannot be written.
    """
    from mmssl.checkpoint import write_text

    record = record_of(name)
    if record is None:
        raise ValueError(
            f'{name} is not installed from a wheel; in a clone mim takes the path of a config: '
            f'mim train {name} configs/...'
        )
    lines = record.read_text(encoding='utf-8').splitlines(keepends=True)
    ordered = sorted(lines, key=lambda line: not line.startswith(f'{name}/'))
    if ordered == lines:
        return None
    write_text(record, ''.join(ordered))
    return record


def copy_weights(folder: Path = CACHE) -> list[Path]:
    """Copy the weights in the package to the folder where ``mim download`` looks before it downloads.

    The metafiles give paths in the package as weights, which mim cannot fetch by itself.

    Returns:
        The files that were not there yet.

    Raises:
        OSError: A file cannot be written.
    """
    folder = folder.expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    copied = []
    for source in sorted((PACKAGE / 'weights').glob('*.safetensors')):
        target = folder / source.name
        if target.exists() and target.read_bytes() == source.read_bytes():
            continue
        partial = target.with_name(f'.{target.name}.{os.getpid()}')
        shutil.copy(source, partial)
        os.replace(partial, target)
        copied.append(target)
    return copied
