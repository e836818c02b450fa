"""Distributions, versions and flavours of the OpenMMLab toolboxes.

The only module that knows distribution names. Imports nothing outside Python.
"""

import importlib.metadata

# import name -> (OneDL's distribution, upstream's)
DISTRIBUTIONS = {
    'mmengine': ('onedl-mmengine', 'mmengine'),
    'mmcv': ('onedl-mmcv', 'mmcv'),
    'mmdet': ('onedl-mmdetection', 'mmdet'),
    'mmseg': ('onedl-mmsegmentation', 'mmsegmentation'),
    'mmpretrain': ('onedl-mmpretrain', 'mmpretrain'),
}
TOOLBOXES = tuple(DISTRIBUTIONS)
# the first release without pkg_resources, which upstream mmengine 0.10 and the build of mmcv import
UPSTREAM_SETUPTOOLS = 82


def owners_of(import_name: str) -> list[str]:
    """Return all installed distributions that contain a package.

    More than one means that they have overwritten each other's files.
    """
    names = importlib.metadata.packages_distributions().get(import_name, [])
    # distributions that list no files are looked up by name
    known = [name for name in (*DISTRIBUTIONS.get(import_name, ()), import_name) if _is_installed(name)]
    return sorted({name.lower().replace('_', '-') for name in [*names, *known]})


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def distribution_of(import_name: str) -> str | None:
    """Return the distribution that contains a package, OneDL's first; None if there is none."""
    owners = owners_of(import_name)
    preferred = [name for name in DISTRIBUTIONS.get(import_name, ()) if name in owners]
    return next(iter([*preferred, *owners]), None)


def version(import_name: str) -> str | None:
    """Return the version of the distribution that contains a package; None if it is not installed."""
    distribution = distribution_of(import_name)
    return None if distribution is None else importlib.metadata.version(distribution)


def flavour() -> str:
    """Return the family of the installed toolboxes: 'onedl', 'upstream', 'mixed' (both at once) or 'none'."""
    flavours = set()
    for import_name, (onedl, _) in DISTRIBUTIONS.items():
        flavours |= {'onedl' if name == onedl else 'upstream' for name in owners_of(import_name)}
    if len(flavours) == 2:
        return 'mixed'
    return flavours.pop() if flavours else 'none'
