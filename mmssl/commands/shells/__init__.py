"""Completion scripts for shells, made from the commands' own parsers, so that new options are included.

Configs are looked up when the key is pressed, so that new ones are found; options and registered names are
those at the time when the script was made.
"""

import importlib


def script(shell: str) -> str:
    """Return the completion script for 'bash', 'zsh' or 'fish'."""
    return importlib.import_module(f'mmssl.commands.shells.{shell}').script()
