"""How onedl-mim finds an installed package, and what lets it find this one.

Release 0.5.1 takes the folder of the first file in the distribution's RECORD for the package's. Installers
sort that list, so that of a wheel with a command it is ``../../../bin/mmssl``, and mim looks for configs and
tools in the folder above site-packages. The order of RECORD has no meaning (PEP 627), so the package's own
files may come first.
"""

import importlib.metadata
from pathlib import Path

DISTRIBUTION = 'mmssl'


def record_of(name: str = DISTRIBUTION) -> Path | None:
    """The RECORD of an installed distribution; None where there is none (a checkout, an egg)."""
    try:
        files = importlib.metadata.distribution(name).files or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = [
        Path(file.locate())
        for file in files
        if file.name == 'RECORD' and file.parent.name.endswith('.dist-info')
    ]
    return found[0] if found and found[0].is_file() else None


def is_found(name: str = DISTRIBUTION) -> bool:
    """Whether mim takes the folder of a package for that of a distribution of the same name."""
    record = record_of(name)
    return record is not None and record.read_text(encoding='utf-8').startswith(f'{name}/')


def put_package_first(name: str = DISTRIBUTION) -> Path | None:
    """Put the package's own files first in its RECORD, each list of files in the order in which it was; nothing is added or lost.

    Returns:
        the file; None where it was so already.

    Raises:
        ValueError: the distribution is not installed from a wheel.
        OSError: the file cannot be written.
    """
    from mmssl.checkpoint import write_text

    record = record_of(name)
    if record is None:
        raise ValueError(
            f'{name} is not installed from a wheel; in a clone mim takes the path of a config: mim train {name} configs/...'
        )
    lines = record.read_text(encoding='utf-8').splitlines(keepends=True)
    ordered = sorted(lines, key=lambda line: not line.startswith(f'{name}/'))
    if ordered == lines:
        return None
    write_text(record, ''.join(ordered))
    return record
