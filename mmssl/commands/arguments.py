"""Arguments that several commands share, and checks of their values. Imports nothing heavy."""

import argparse
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from mmssl.config import RANDOM
from mmssl.hints import nearest_path

_TRUST = 'load checkpoints that contain pickled code, which can do anything on this machine'
# launcher -> variables of the rank, the number of processes and the rank on this machine
LAUNCHERS = {
    'none': None,
    'pytorch': ('RANK', 'WORLD_SIZE', 'LOCAL_RANK'),
    'slurm': ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID'),
    'mpi': ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_LOCAL_RANK'),
}


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add the positional config."""
    parser.add_argument('config', help='path of a config, or its name below configs/')


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that training and testing share."""
    add_data(parser)
    parser.add_argument(
        '--work-dir', metavar='DIR', help='folder for logs and checkpoints (default: work_dirs/<config>)'
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        default=[],
        metavar='KEY=VALUE',
        help='override settings, e.g. train_dataloader.batch_size=8',
    )
    parser.add_argument(
        '--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='job launcher'
    )
    parser.add_argument('--local-rank', '--local_rank', type=int, default=0, help=argparse.SUPPRESS)
    add_trust(parser)


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add the folder that replaces the data of the config."""
    parser.add_argument(
        '--data',
        metavar='DIR',
        help='use this folder, archive, list, table, pattern or URL instead of the data of the config',
    )


def add_cfg_options(parser: argparse.ArgumentParser, of: str = 'the config') -> None:
    """Add overrides of a config."""
    parser.add_argument(
        '--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help=f'override settings of {of}'
    )


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Add the permission to unpickle code."""
    parser.add_argument('--trust-checkpoint', action='store_true', help=_TRUST)


def add_progress(parser: argparse.ArgumentParser) -> None:
    """Add the progress line of non-interactive runs."""
    parser.add_argument(
        '--progress', action='store_true', help='show a progress line even if stderr is not a terminal'
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add the device."""
    parser.add_argument('--device', help='cpu, cuda, cuda:1, ... (default: a GPU if there is one)')


def add_workers(parser: argparse.ArgumentParser) -> None:
    """Add the number of loader processes."""
    parser.add_argument(
        '--workers', type=int, default=2, metavar='N', help='processes that read images (default: 2)'
    )


def add_launcher(parser: argparse.ArgumentParser) -> None:
    """Add the launcher that has started the processes of a command."""
    parser.add_argument(
        '--launcher',
        choices=list(LAUNCHERS),
        help='job launcher, whose processes take turns at the images (default: pytorch under torchrun)',
    )


def process_of(launcher: str | None, device: str | None) -> tuple[int, int, str | None]:
    """Return the rank, the number of processes, and the device of this process.

    Raises:
        ValueError: The launcher has not started this process.
    """
    if launcher is None:
        launcher = 'pytorch' if {'RANK', 'WORLD_SIZE'} <= set(os.environ) else 'none'
    variables = LAUNCHERS[launcher]
    if variables is None:
        return 0, 1, device
    missing = [name for name in variables[:2] if name not in os.environ]
    if missing:
        raise ValueError(
            f'--launcher {launcher}: {missing[0]} is not set; start the command with that launcher'
        )
    rank, world_size = (int(os.environ[name]) for name in variables[:2])
    if device in (None, 'cuda'):
        import torch

        if torch.cuda.is_available():
            local_rank = int(os.environ.get(variables[2], rank))
            device = f'cuda:{local_rank % torch.cuda.device_count()}'
    return rank, world_size, device


def progress_hidden(args: argparse.Namespace) -> bool:
    """Return True if no progress line is to be shown."""
    return not (args.progress or sys.stderr.isatty())


def option_name(attribute: str) -> str:
    """Return the option of an attribute of the parsed arguments: ``max_train`` to ``--max-train``."""
    return f'--{attribute.replace("_", "-")}'


def check_minimums(args: argparse.Namespace, **minimums: float) -> None:
    """Check numbers before anything is loaded; None is not checked.

    Args:
        args: The parsed arguments.
        **minimums: Smallest allowed value of each attribute.

    Raises:
        ValueError: A value is below its minimum.
    """
    for name, minimum in minimums.items():
        value = getattr(args, name)
        if value is not None and not value >= minimum:
            raise ValueError(f'{option_name(name)} {value} must be at least {minimum:g}')


def check_files(paths: Iterable[str]) -> None:
    """Check that files exist before anything is loaded.

    Raises:
        FileNotFoundError: A file does not exist, or is something else.
    """
    for path in paths:
        if not os.path.exists(path):
            raise FileNotFoundError(f'{path} does not exist{nearest_path(path)}')
        if not os.path.isfile(path):
            raise FileNotFoundError(f'{path} is not a file')


def checkpoint_files(checkpoint: str) -> list[str]:
    """Return the files that a checkpoint argument needs: none for 'random'."""
    return [] if checkpoint == RANDOM else [checkpoint]


IMAGE_OUTPUTS = ('.png', '.jpg', '.jpeg', '.webp')


def check_output_suffix(out: str, suffixes: tuple[str, ...] = IMAGE_OUTPUTS, hint: str = '.png') -> None:
    """Check the name of an image or figure to write.

    Raises:
        ValueError: The name does not end in one of the suffixes.
    """
    if Path(out).suffix.lower() not in suffixes:
        raise ValueError(f'--out {out}: give a name that ends in {hint}')


def check_output_folder(out: Path) -> None:
    """Check that an output folder is not a file.

    Raises:
        NotADirectoryError: It is.
    """
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f'--out {out} is a file; name a folder')


def make_parent(path: str | os.PathLike) -> None:
    """Create the folder of a file."""
    Path(path).absolute().parent.mkdir(parents=True, exist_ok=True)
