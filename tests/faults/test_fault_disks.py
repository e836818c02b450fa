"""Full disks, work directories that cannot be written, and no home."""

import os
import shutil
import subprocess

import pytest

from mmssl.checkpoint import load_file

OPTIONS = [
    '--cfg-options',
    'train_dataloader.batch_size=2',
    'train_cfg.max_iters=6',
    'default_hooks.checkpoint.interval=3',
    'default_hooks.checkpoint.max_keep_ckpts=1',
]


@pytest.fixture
def mount():
    """``mount(folder, 'size=1m')`` puts a file system in memory there."""
    mounted = []

    def mount(folder, options):
        folder.mkdir(exist_ok=True)
        done = subprocess.run(
            ['mount', '-t', 'tmpfs', '-o', options, 'tmpfs', str(folder)], capture_output=True, text=True
        )
        if done.returncode:
            pytest.skip(f'no file system can be mounted here: {done.stderr.strip()}')
        mounted.append(folder)
        return folder

    if shutil.which('mount') is None:
        pytest.skip('there is no mount')
    yield mount
    for folder in mounted:
        subprocess.run(['umount', '-l', str(folder)], check=True)


def train(start, demo_folder, system, work_dir, *arguments, **settings):
    return start(
        'train',
        f'configs/smoke/{system}.py',
        '--work-dir',
        work_dir,
        *arguments,
        *OPTIONS,
        cwd=demo_folder,
        **settings,
    )


def fill(folder, leave):
    """Write a file that leaves so many bytes."""
    free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    (folder / 'filler').write_bytes(b'x' * max(0, free - leave))


@pytest.mark.parametrize('system', ['mae', 'rfcn'])
def test_full_at_the_second_save(system, start, at, mount, demo_folder):
    work_dir = mount(demo_folder / 'disk', 'size=64m') / 'run'
    job = train(
        start,
        demo_folder,
        system,
        work_dir,
        prepare=at('after_train_iter', lambda runner: runner.iter == 3 and fill(work_dir.parent, 100_000)),
    )
    assert job.wait() == 1
    assert len(job.errors) == 1 and 'Traceback' not in job.text, job.text[-2000:]
    assert (
        'iter_6.pth: No space left on device; about ' in job.errors[0] and 'bytes are needed' in job.errors[0]
    )
    assert 'go on with --resume' in job.errors[0]
    assert [path.name for path in work_dir.glob('*.pth')] == ['iter_3.pth'] and not list(
        work_dir.glob('.*tmp')
    )
    assert load_file(work_dir / 'iter_3.pth')['meta']['iter'] == 3
    (work_dir.parent / 'filler').unlink()
    if system == 'mae':
        resumed = train(start, demo_folder, system, work_dir, '--resume')
        assert resumed.wait() == 0 and (work_dir / 'last_checkpoint').read_text() == 'iter_6.pth', (
            resumed.text[-2000:]
        )


def test_full_for_the_logs_too(start, at, mount, demo_folder):
    """Not a byte is left."""
    work_dir = mount(demo_folder / 'disk', 'size=16m') / 'run'
    job = train(
        start,
        demo_folder,
        'mae',
        work_dir,
        prepare=at('after_train_iter', lambda runner: runner.iter == 3 and fill(work_dir.parent, 0)),
    )
    assert job.wait() == 1
    assert len(job.errors) == 1 and 'No space left on device' in job.errors[0], job.text[-3000:]
    assert 'Traceback' not in job.text and 'Logging error' not in job.text, job.text[-3000:]
    assert load_file(work_dir / 'iter_3.pth')['meta']['iter'] == 3


def test_full_from_the_start(start, mount, demo_folder):
    disk = mount(demo_folder / 'disk', 'size=64k')
    fill(disk, 0)
    job = train(start, demo_folder, 'mae', disk / 'run')
    assert job.wait() == 1
    assert (
        len(job.errors) == 1 and 'No space left on device' in job.errors[0] and str(disk) in job.errors[0]
    ), job.text[-3000:]
    assert 'Traceback' not in job.text and 'Logging error' not in job.text, job.text[-3000:]


def test_read_only(start, mount, demo_folder):
    disk = mount(demo_folder / 'disk', 'size=64k,ro')
    job = train(start, demo_folder, 'mae', disk / 'run')
    assert job.wait() == 1
    assert len(job.errors) == 1 and 'Read-only file system' in job.errors[0] and str(disk) in job.errors[0], (
        job.text[-2000:]
    )
    assert 'Traceback' not in job.text


def test_a_file_in_place_of_the_work_directory(start, demo_folder):
    (demo_folder / 'file').write_text('mine')
    for work_dir in ('file', 'file/run'):
        job = train(start, demo_folder, 'mae', work_dir)
        assert job.wait() == 1
        assert (
            len(job.errors) == 1
            and str(demo_folder / 'file') in job.errors[0]
            and 'Traceback' not in job.text
        ), job.text[-2000:]
    assert (demo_folder / 'file').read_text() == 'mine'


@pytest.mark.parametrize('system, home', [('mae', None), ('gcn', '/no/such/home')])
def test_no_home(system, home, start, demo_folder):
    """From the first import on: test_fault_signals.py."""
    job = train(
        start, demo_folder, system, 'run', env=dict(HOME=home, MPLCONFIGDIR=None, XDG_CACHE_HOME=None)
    )
    assert job.wait() == 0, job.text[-2000:]
