"""The command line: ``mmssl COMMAND ...``. Every file in tools/ is a thin call into the same commands.

A command is a module under ``mmssl/commands`` with ``HELP`` (one line), ``add_arguments(parser)`` and ``run(args) -> int | None``.
Heavy imports (torch, the toolboxes) belong inside ``run``, so that ``mmssl --help`` answers at once.
"""

import argparse
import difflib
import importlib
import os
import sys

from mmssl import __version__

# command -> module; in the order in which `mmssl --help` shows them
COMMANDS = {
    'train': 'mmssl.commands.train',
    'test': 'mmssl.commands.test',
    'knn': 'mmssl.commands.knn',
    'linear': 'mmssl.commands.linear',
    'attention': 'mmssl.commands.attention',
    'reconstruct': 'mmssl.commands.reconstruct',
    'embedding': 'mmssl.commands.embedding',
    'visualize': 'mmssl.commands.visualize',
    'segment': 'mmssl.commands.segment',
    'annotate': 'mmssl.commands.annotate',
    'tokenizer': 'mmssl.commands.tokenizer',
    'convert': 'mmssl.commands.convert',
    'report': 'mmssl.commands.report',
    'list': 'mmssl.commands.list',
    'print-config': 'mmssl.commands.print_config',
    'check-data': 'mmssl.commands.check_data',
    'doctor': 'mmssl.commands.doctor',
    'demo-data': 'mmssl.commands.demo_data',
}

# what a command raises for bad input or a run that cannot go on; anything else is a fault of ours and keeps its traceback
USER_ERRORS = (ValueError, TypeError, KeyError, OSError, ImportError)
STOPS = ('BadFilesError', 'NonFiniteError', 'TrainingError')


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='mmssl', description='Self-supervised pre-training, detection, segmentation and prompting on OpenMMLab.')
    parser.add_argument('--version', action='version', version=f'mmssl {__version__}')
    return parser


def main(argv: list[str] | None = None, command: str | None = None) -> int:
    """Run one command.

    Args:
        argv: arguments after the program's name; ``sys.argv[1:]`` when None.
        command: name of the command, for tools/*.py that are one command; None reads it from ``argv``.

    Returns:
        the exit status: 0 done, 1 the command failed, 2 the arguments are wrong.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if command is None:
        if argv and not argv[0].startswith('-'):
            command, argv = argv[0], argv[1:]
        else:
            return _overview(argv)
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, n=1)
        print(f'mmssl: error: no command {command!r}' + (f'; did you mean {near[0]!r}?' if near else f'; one of {", ".join(COMMANDS)}'),
              file=sys.stderr)
        return 2
    module = importlib.import_module(COMMANDS[command])
    parser = argparse.ArgumentParser(prog=f'mmssl {command}', description=module.HELP)
    module.add_arguments(parser)
    args = parser.parse_args(argv)
    try:
        return int(module.run(args) or 0)
    except Exception as error:
        known = isinstance(error, USER_ERRORS) or type(error).__name__ in STOPS  # by name: their modules import torch
        if os.environ.get('MMSSL_DEBUG') or not known:
            raise
        message = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
        print(f'mmssl {command}: error: {message}\n(MMSSL_DEBUG=1 shows the traceback)', file=sys.stderr)
        return 1


def _overview(argv: list[str]) -> int:
    parser = _parser()
    subparsers = parser.add_subparsers(title='commands', metavar='COMMAND')
    for name, module in COMMANDS.items():
        subparsers.add_parser(name, help=importlib.import_module(module).HELP, add_help=False)
    parser.parse_args(argv)
    parser.print_help()
    return 2


if __name__ == '__main__':
    sys.exit(main())
