"""The work directory of a run: curves, metrics, config, environment, time. Files are read, never executed."""

import re
from pathlib import Path

from mmssl.visualization.run_logs import RunStart, is_timestamp, parse_json, read_rows, read_start
from mmssl.visualization.written_config import read_settings

# keys of a row that are its position or the time it took
POSITIONS = ('iter', 'epoch', 'step')
TIMES = ('time', 'data_time')
# images that browsers display
FIGURE_SUFFIXES = ('.png', '.jpg', '.jpeg', '.webp')
CHECKPOINT_SUFFIXES = ('.pth', '.pt', '.safetensors')


class Run:
    """A work directory.

    Args:
        folder: The directory, as given to ``mmssl train --work-dir``.

    Attributes:
        starts: Starts of the run, oldest first; more than one if it was resumed.
        curves: Key -> (iteration, value) in order; where starts overlap, the later one counts.
        metric_keys: Keys of the curves that are metrics of an evaluation.
        epochs: Number of the last epoch.
        tests: (folder, metrics) of ``mmssl test``.
        config: Text of the latest config; '' if there is none.

    Raises:
        FileNotFoundError: The folder does not exist.
        NotADirectoryError: It is a file.
        ValueError: It contains no run.
    """

    def __init__(self, folder: str | Path):
        from mmssl.hints import nearest_path

        self.folder = Path(folder)
        if not self.folder.exists():
            raise FileNotFoundError(f'{folder} does not exist{nearest_path(folder)}')
        if not self.folder.is_dir():
            raise NotADirectoryError(f'{folder} is a file; name the work directory of a run')
        log_folders = sorted(
            (path for path in self.folder.iterdir() if path.is_dir() and is_timestamp(path.name)),
            key=lambda path: path.name,
        )
        if not log_folders:
            raise ValueError(
                f'{folder} is not the work directory of a run: it has no folder of logs, such as '
                f'20260131_235959{_suggestion(self.folder)}'
            )
        self.starts: list[RunStart] = []
        self.tests: list[tuple[Path, dict]] = []
        self.curves: dict[str, list[tuple[int, float]]] = {}
        self.epochs = 0
        self.metric_keys: list[str] = []
        for log_folder in log_folders:
            self._add_start(log_folder)
        self.curves = {key: points for key, points in self.curves.items() if points}
        self.metric_keys = [key for key in self.metric_keys if key in self.curves]
        self.config = self._read_config(log_folders)
        logs = [log for log_folder in reversed(log_folders) for log in sorted(log_folder.glob('*.log'))]
        self.log = logs[0] if logs else None

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.folder.resolve().name

    @property
    def config_name(self) -> str:
        """Name of the config file without '.py', or of the folder if there is none."""
        names = sorted(path.stem for path in self.folder.glob('*.py'))
        return names[0] if names else self.name

    @property
    def seconds(self) -> float:
        """Time of all starts together."""
        return sum(start.seconds for start in self.starts)

    @property
    def last_iteration(self) -> int:
        """Last iteration with a loss or a metric; not every loss is logged."""
        return max((points[-1][0] for points in self.curves.values()), default=0)

    def main_metrics(self) -> list[str]:
        """Return the keys of metrics that are not of a single class."""
        stems = [key.split('.')[0] for key in self.metric_keys if '.' in key]
        # IoU.road, IoU.sky, ... are of single classes: several keys with the same part before the dot
        return [key for key in self.metric_keys if '.' not in key or stems.count(key.split('.')[0]) == 1]

    def settings(self) -> dict:
        """Return the values of the latest config; {} if it does not consist of literals."""
        try:
            return read_settings(self.config)
        except ValueError:
            return {}

    def planned_iterations(self) -> int | None:
        """Return the number of iterations in the config; None if it depends on the data."""
        loop = self.settings().get('train_cfg')
        value = loop.get('max_iters') if isinstance(loop, dict) else None
        return value if isinstance(value, int) else None

    def environment(self) -> list[tuple[str, str]]:
        """Return the (name, value) pairs at the beginning of the latest log."""
        text = self.log.read_text(encoding='utf-8', errors='replace')[:20000] if self.log else ''
        section = re.search(r'System environment:\n(.*?)\n-{20,}', text, re.DOTALL)
        pairs = re.findall(r'^ {4}([^\s:][^:\n]*): (.*)$', section.group(1), re.MULTILINE) if section else []
        omitted = ('PyTorch compiling', 'MUSA', 'numpy_random')
        return [(name, value) for name, value in pairs if not name.startswith(omitted)]

    def images(self) -> list[Path]:
        """Return the image files in the folder, latest last."""
        images = [
            path
            for path in self.folder.rglob('*')
            if path.suffix.lower() in FIGURE_SUFFIXES
            and path.is_file()
            and path.stat().st_size
            and 'wandb' not in path.relative_to(self.folder).parts  # copies
        ]
        return sorted(images, key=lambda path: (path.stat().st_mtime, str(path)))

    def checkpoints(self) -> list[Path]:
        """Return the checkpoint files, latest last."""
        files = [
            path for path in self.folder.iterdir() if path.suffix in CHECKPOINT_SUFFIXES and path.is_file()
        ]
        return sorted(files, key=lambda path: (path.stat().st_mtime, path.name))

    def _add_start(self, log_folder: Path) -> None:
        rows = read_rows(log_folder)
        if rows:
            start = read_start(log_folder, rows)
            self.starts.append(start)
            if start.first is not None:  # what the previous start logged beyond this point was lost
                for points in self.curves.values():
                    points[:] = [point for point in points if point[0] < start.first]
        self._add_rows(rows)
        for path in sorted(log_folder.glob('*.json')):
            content = parse_json(path.read_text(encoding='utf-8', errors='replace'))
            if isinstance(content, dict):
                metrics = {key: value for key, value in content.items() if key not in TIMES}
                self.tests.append((log_folder, metrics))

    def _add_rows(self, rows: list[dict]) -> None:
        iteration = 0
        for row in rows:
            is_metric = 'iter' not in row
            position = iteration = row.get('iter', iteration)
            step = row.get('step')
            # metrics are logged by epoch or by iteration; the rows are in the order of time
            if is_metric and isinstance(step, int) and step >= iteration:
                position = step
            epoch = row.get('epoch', 0)
            self.epochs = max(self.epochs, epoch if isinstance(epoch, int) else 0)
            for key, value in row.items():
                if key in POSITIONS or (is_metric and key in TIMES) or not _is_number(value):
                    continue
                if is_metric and key not in self.metric_keys:
                    self.metric_keys.append(key)
                self.curves.setdefault(key, []).append((position, float(value)))

    def _read_config(self, log_folders: list[Path]) -> str:
        candidates = []
        for log_folder in reversed(log_folders):
            candidates += [log_folder / 'vis_data/config.py', *sorted(log_folder.glob('*.py'))]
        candidates += sorted(self.folder.glob('*.py'))
        path = next((path for path in candidates if path.is_file()), None)
        return path.read_text(encoding='utf-8', errors='replace') if path else ''


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _suggestion(folder: Path) -> str:
    """Suggest the parent folder or a subfolder if that is the work directory of a run."""
    if is_timestamp(folder.resolve().name) or folder.name == 'vis_data':
        return f'; did you mean {folder.resolve().parent}?'
    for path in sorted(folder.iterdir()):
        if path.is_dir() and any(is_timestamp(entry.name) for entry in path.iterdir()):
            return f'; did you mean {path}?'
    return ''
