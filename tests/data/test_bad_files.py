"""Bad files are skipped, counted once and listed; too many stop the run (real workers, real Runner)."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.dataset import ConcatDataset, RepeatDataset, default_collate, worker_init_fn
from mmengine.model import BaseModel
from mmengine.runner import Runner
from PIL import Image
from torch.utils.data import DataLoader

from mmssl.data.bad_files import BadFiles, BadFilesError, BadFilesHook, read_list
from mmssl.data.folder import ImageFolder
from mmssl.data.images import BadImageError

PIPELINE = [dict(type='mmssl.LoadRandomResizedCrop', scale=16)]


def make_folder(root, good, bad):
    root.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for index in range(good):
        Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(
            root / f'good_{index:03d}.jpg'
        )
    whole = (root / 'good_000.jpg').read_bytes() if good else b'\xff\xd8\xff'
    for index in range(bad):
        # empty, cut off and no image, in turn
        (root / f'bad_{index:03d}.jpg').write_bytes((b'', whole[: len(whole) // 2], b'text')[index % 3])
    return str(root)


def seeded_loader(dataset, workers, batch_size=4):
    return DataLoader(
        dataset,
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=default_collate,
        worker_init_fn=lambda worker: worker_init_fn(worker, workers, 0, 5),
    )


def first_batch(dataset, workers):
    """Return one batch; the workers end here, not whenever the loader is garbage-collected."""
    iterator = iter(seeded_loader(dataset, workers))
    try:
        return next(iterator)
    finally:
        if workers:
            iterator._shutdown_workers()


def runner_like(dataset, work_dir):
    return SimpleNamespace(work_dir=str(work_dir), train_dataloader=SimpleNamespace(dataset=dataset))


class Mean(BaseModel):
    """The smallest model that a Runner can train."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, img, mode='tensor', **_):
        return dict(loss=self.weight * img.float().mean())


def run_training(dataset, work_dir):
    runner = Runner(
        model=Mean(),
        work_dir=str(work_dir),
        experiment_name='bad',
        default_scope='mmengine',
        cfg=dict(),
        train_dataloader=dict(
            dataset=dataset,
            batch_size=4,
            num_workers=2,
            sampler=dict(type='DefaultSampler', shuffle=True),
            collate_fn=dict(type='default_collate'),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=2),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        custom_hooks=[BadFilesHook()],
        default_hooks=dict(checkpoint=None),
        randomness=dict(seed=0),
        log_level='ERROR',
    )
    runner.train()
    return runner


def test_limit():
    assert [BadFiles().allowed(total) for total in (1, 1000, 3000, 3001, 50_000, 10**6)] == [
        3,
        3,
        3,
        4,
        50,
        100,
    ]
    assert (
        BadFiles(2).allowed(10**6) == 2
        and BadFiles(0).allowed(10) == 0
        and BadFiles(10**6, 0.5).allowed(1000) == 500
    )
    for arguments in (dict(max_bad_files=-1), dict(max_bad_fraction=1.5)):
        with pytest.raises(ValueError, match=next(iter(arguments))):
            BadFiles(**arguments)


def test_skipped_files_are_listed_once_and_the_run_continues(tmp_path):
    dataset = ImageFolder(make_folder(tmp_path / 'images', 20, 3), pipeline=PIPELINE)
    runner = run_training(dataset, tmp_path / 'work')
    assert runner.iter == 12
    listed = read_list(tmp_path / 'work' / 'bad_files.txt')
    assert {path for path, _ in listed} == {
        str(tmp_path / 'images' / f'bad_00{number}.jpg') for number in range(3)
    }
    assert len(listed) <= 4  # two workers may find the same file at the same moment
    reasons = dict(listed)
    assert reasons[str(tmp_path / 'images/bad_000.jpg')] == 'the file is empty'


def test_too_many_stop_the_runner_with_a_clear_message(tmp_path):
    dataset = ImageFolder(make_folder(tmp_path / 'images', 8, 6), pipeline=PIPELINE)
    with pytest.raises(BadFilesError) as caught:
        run_training(dataset, tmp_path / 'work')
    message = str(caught.value)
    assert 'of 14 images cannot be decoded, 3 are allowed' in message and 'max_bad_files=100' in message
    assert str(tmp_path / 'work' / 'bad_files.txt') in message and 'Traceback' not in message


def test_a_higher_limit_lets_the_run_continue(tmp_path):
    dataset = ImageFolder(make_folder(tmp_path / 'images', 8, 6), pipeline=PIPELINE, max_bad_fraction=0.5)
    assert run_training(dataset, tmp_path / 'work').iter == 8


def test_the_hook_stops_the_main_process_when_the_list_grows(tmp_path):
    first = ImageFolder(make_folder(tmp_path / 'first', 10, 5), pipeline=PIPELINE)
    second = ImageFolder(make_folder(tmp_path / 'second', 10, 0), pipeline=PIPELINE)
    hook = BadFilesHook()
    runner = runner_like(ConcatDataset([first, second]), tmp_path)
    hook.before_train(runner_like(RepeatDataset(second, 2), tmp_path))
    assert hook.datasets == [second]
    hook.before_train(runner)
    assert hook.datasets == [first, second]
    assert first.bad_files.list_file == second.bad_files.list_file == str(tmp_path / 'bad_files.txt')
    hook.after_train_iter(runner, 0)
    with open(tmp_path / 'bad_files.txt', 'a') as file:  # as another rank's worker would
        file.writelines(f'{tmp_path}/first/bad_00{number}.jpg\tempty\n' for number in (0, 1, 1, 2))
        file.write('elsewhere/x.jpg\tempty\n')
    hook.after_train_iter(runner, 1)
    with open(tmp_path / 'bad_files.txt', 'a') as file:
        file.write(f'{tmp_path}/first/bad_003.jpg\tempty\n')
    with pytest.raises(BadFilesError, match='4 of 15 images'):
        hook.after_train_iter(runner, 2)


def test_repaired_files_are_dropped_by_the_next_run(tmp_path):
    dataset = ImageFolder(make_folder(tmp_path / 'images', 10, 3), pipeline=PIPELINE)
    paths = [str(tmp_path / 'images' / f'bad_00{number}.jpg') for number in range(3)]
    (tmp_path / 'bad_files.txt').write_text(
        ''.join(f'{path}\tempty\n' for path in (*paths, f'{tmp_path}/gone.jpg'))
    )
    Image.new('RGB', (8, 8)).save(paths[0])
    BadFilesHook().before_train(runner_like(dataset, tmp_path))
    assert [path for path, _ in read_list(tmp_path / 'bad_files.txt')] == paths[1:]


@pytest.mark.parametrize('workers', [0, 2])
def test_a_folder_without_any_good_file_fails_at_once(tmp_path, workers):
    for bad in (2, 40):
        dataset = ImageFolder(make_folder(tmp_path / f'{bad}', 0, bad), pipeline=PIPELINE)
        with pytest.raises(BadFilesError, match='none of the 2 images|4 of 40 images'):
            first_batch(dataset, workers)


def test_without_the_hook_the_data_set_counts(tmp_path):
    dataset = ImageFolder(make_folder(tmp_path / 'images', 10, 4), pipeline=PIPELINE)
    with pytest.raises(BadFilesError, match=r'4 of 14 images .*bad_000.jpg \(the file is empty\)'):
        for _ in range(2):
            for index in range(len(dataset)):
                assert dataset[index]['img'].shape == (16, 16, 3)


@pytest.mark.parametrize('workers', [0, 2])
def test_skipping_is_deterministic_by_seed(tmp_path, workers):
    dataset = ImageFolder(make_folder(tmp_path / 'images', 13, 3), pipeline=PIPELINE)
    passes = []
    for _ in range(3):  # in later passes the bad files are known, which must not change anything
        random.seed(5), np.random.seed(5), torch.manual_seed(5)
        passes.append(torch.cat([batch['img'] for batch in seeded_loader(dataset, workers)]))
    assert len(passes[0]) == 16
    assert torch.equal(passes[0], passes[1]) and torch.equal(passes[0], passes[2])


def test_test_mode_names_the_file(tmp_path):
    dataset = ImageFolder(make_folder(tmp_path / 'images', 4, 1), pipeline=PIPELINE, test_mode=True)
    with pytest.raises(BadImageError, match='bad_000.jpg: the file is empty'):
        dataset[0]
    with pytest.raises(BadImageError, match='bad_000.jpg: the file is empty'):
        first_batch(dataset, 1)


def test_bad_files_are_skipped_with_the_loader_of_mmcv_too(tmp_path):
    dataset = ImageFolder(
        make_folder(tmp_path / 'images', 8, 3), pipeline=[dict(type='mmcv.LoadImageFromFile')]
    )
    assert all(dataset[index]['img'].shape == (24, 32, 3) for index in range(len(dataset)))
    assert len(dataset.bad_files._reasons) == 3


def test_an_error_in_the_pipeline_is_not_a_bad_file(tmp_path):
    def broken(results):
        raise AttributeError('an error in the pipeline')

    dataset = ImageFolder(make_folder(tmp_path / 'images', 2, 0), pipeline=[broken])
    with pytest.raises(AttributeError, match='an error in the pipeline') as caught:
        dataset[0]
    notes = getattr(caught.value, '__notes__', None)
    assert notes is None or 'good_000.jpg' in notes[0]
