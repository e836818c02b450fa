"""``mmssl doctor``: what is installed, what is broken, and the command that fixes it."""

import argparse

HELP = 'report what is installed, what is broken and how to fix it'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the check of the GPU and the repair of mim."""
    parser.add_argument(
        '--gpu',
        action='store_true',
        help='compare every operator on the GPU with the CPU, values and gradients, in about 30 seconds',
    )
    parser.add_argument(
        '--mim',
        action='store_true',
        help="let onedl-mim find this package and its weights: list its files first in the wheel's RECORD, "
        'and copy the weights to the cache of `mim download`',
    )


def run(args: argparse.Namespace) -> int:
    """Print the report; with ``--gpu`` only compare operators, with ``--mim`` only repair the RECORD.

    Returns:
        1 if something is broken, else 0.

    Raises:
        UserError: ``--gpu`` is given, and torch has no GPU.
    """
    if args.gpu:
        return _compare_operators()
    if args.mim:
        from mmssl.hosts import mim

        record = mim.put_package_first()
        print(f'{record}: the files of mmssl come first' if record else 'mim finds mmssl already')
        for path in mim.copy_weights():
            print(f'{path}: copied from the package')
        return 0
    from mmssl.hosts import doctor

    findings = doctor.diagnose(doctor.read_environment())
    print(doctor.report(findings))
    return int(any(finding.level == 'broken' for finding in findings))


def _compare_operators() -> int:
    import torch

    from mmssl.errors import UserError

    if not torch.cuda.is_available():
        build = f'CUDA {torch.version.cuda}' if torch.version.cuda else 'a CPU build'
        raise UserError(f'--gpu: torch {torch.__version__} ({build}) finds no GPU; does nvidia-smi find one?')
    from mmssl.commands.gpu_operators import report

    print(
        f'{torch.cuda.get_device_name()}, torch {torch.__version__}: largest relative error of each operator'
    )
    agree = report(torch.device('cuda'))
    print('nothing is broken' if agree else 'results on this GPU are wrong, or an operator fails')
    return int(not agree)
