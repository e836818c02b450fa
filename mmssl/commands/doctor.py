"""``mmssl doctor``: what is installed, what is broken, and the command that fixes it."""

import argparse

HELP = 'report what is installed, what is broken and how to fix it'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the repair of mim."""
    parser.add_argument(
        '--mim',
        action='store_true',
        help="let onedl-mim find this package: list its files first in the wheel's RECORD",
    )


def run(args: argparse.Namespace) -> int:
    """Print the report, or with ``--mim`` only repair the RECORD.

    Returns:
        1 if something is broken, else 0.
    """
    if args.mim:
        from mmssl.hosts import mim

        record = mim.put_package_first()
        print(f'{record}: the files of mmssl come first' if record else 'mim finds mmssl already')
        return 0
    from mmssl.hosts import doctor

    findings = doctor.diagnose(doctor.read_environment())
    print(doctor.report(findings))
    return int(any(finding.level == 'broken' for finding in findings))
