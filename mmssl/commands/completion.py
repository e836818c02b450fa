"""``mmssl completion SHELL``: a script that completes commands, options, configs and names."""

import argparse

HELP = 'print a script that makes bash, zsh or fish complete commands, options, configs and names'
DESCRIPTION = (
    'Print a script that makes a shell complete commands, options, configs and names. '
    'bash: add eval "$(mmssl completion bash)" to ~/.bashrc; '
    'zsh: mmssl completion zsh > ~/.zfunc/_mmssl, a folder of $fpath, before compinit; '
    'fish: mmssl completion fish > ~/.config/fish/completions/mmssl.fish'
)
SHELLS = ('bash', 'zsh', 'fish')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the shell."""
    parser.add_argument('shell', choices=SHELLS, help='the shell that you use')


def run(args: argparse.Namespace) -> None:
    """Print the script."""
    from mmssl.commands import shells

    print(shells.script(args.shell), end='')
