"""``mmssl completion SHELL``: what makes a shell complete commands, options, configs and names."""

import argparse

HELP = 'print what makes bash, zsh or fish complete commands, options, configs and names'
DESCRIPTION = (
    'Print what makes a shell complete commands, options, configs and names. '
    'bash: add eval "$(mmssl completion bash)" to ~/.bashrc; '
    'zsh: mmssl completion zsh > ~/.zfunc/_mmssl, a folder of $fpath, before compinit; '
    'fish: mmssl completion fish > ~/.config/fish/completions/mmssl.fish'
)
SHELLS = ('bash', 'zsh', 'fish')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The shell."""
    parser.add_argument('shell', choices=SHELLS, help='the shell that you type in')


def run(args: argparse.Namespace) -> None:
    """Print the script."""
    from mmssl.commands import shell_scripts as completion

    print(getattr(completion, args.shell)(), end='')
