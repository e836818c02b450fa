"""``mmssl doctor``: what is installed, what does not fit, and the command that cures it."""

import argparse

HELP = 'say what is installed, what is broken and how to cure it'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: the command looks at the Python it runs in."""


def run(args: argparse.Namespace) -> int:
    """Print the report; 1 when something is broken, else 0."""
    from mmssl import doctor

    findings = doctor.diagnose(doctor.look())
    print(doctor.report(findings))
    return int(any(finding.level == 'broken' for finding in findings))
