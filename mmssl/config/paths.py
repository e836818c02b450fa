"""Where the files beside the code lie: configs, tools, the model index. Imports nothing heavy."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def mim_root() -> Path:
    """Folder that holds ``configs``, ``tools`` and ``model-index.yml``.

    ``mmssl/.mim`` in a wheel and in a checkout with symbolic links; the checkout itself where git could not
    make links (Windows writes small text files in their place).

    Raises:
        FileNotFoundError: neither has a ``configs`` folder.
    """
    for root in (PACKAGE / '.mim', PACKAGE.parent):
        if (root / 'configs').is_dir():
            return root
    raise FileNotFoundError(
        f'no configs in {PACKAGE / ".mim"} nor in {PACKAGE.parent}; install mmssl again: pip install --force-reinstall '
        '--no-deps mmssl, or pip install -e . in a clone'
    )


def config_root() -> Path:
    """Folder of the configs, ``<config_root>/mae/mae_vit-b_8xb512.py`` and so on.

    Raises:
        FileNotFoundError: the installation carries no configs.
    """
    return mim_root() / 'configs'
