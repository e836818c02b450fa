"""``mmssl doctor``: what is installed, what does not fit, and the command that cures it."""

import argparse

HELP = 'say what is installed, what is broken and how to cure it'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the one thing that it mends."""
    parser.add_argument(
        '--mim',
        action='store_true',
        help="let onedl-mim find this package: list its files first in the wheel's RECORD",
    )


def run(args: argparse.Namespace) -> int:
    """Print the report; 1 when something is broken, else 0. With ``--mim`` only that is mended."""
    if args.mim:
        from mmssl.hosts import mim

        record = mim.put_package_first()
        print(f'{record}: the files of mmssl come first' if record else 'mim finds mmssl already')
        return 0
    from mmssl.hosts import doctor

    findings = doctor.diagnose(doctor.read_environment())
    print(doctor.report(findings))
    return int(any(finding.level == 'broken' for finding in findings))
