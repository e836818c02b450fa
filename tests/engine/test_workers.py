"""Workers of data loaders that die: named also where torch does not notice."""

import multiprocessing
import subprocess
import sys
import time

import pytest

from mmssl.engine.workers import WorkerBoard, named_worker_deaths
from mmssl.errors import WorkerError


class Photos:
    """Two samples with files."""

    def get_data_info(self, index):
        return dict(img_path=f'photo_{index}.jpg')


@pytest.mark.parametrize('error', [ConnectionResetError(104, 'Connection reset by peer'), EOFError()])
def test_a_broken_pipe_names_the_worker_whose_end_was_waited_for_elsewhere(error):
    process = subprocess.Popen([sys.executable, '-c', ''])
    process.wait()
    board = WorkerBoard(Photos(), 2)
    board.notes[1] = board.notes.new_tensor([process.pid, 1, 1])
    message = rf'worker 1 .*\(process {process.pid}\) died while it read photo_1\.jpg'
    with pytest.raises(WorkerError, match=message), named_worker_deaths():
        raise error
    board.notes.zero_()


def test_a_broken_pipe_names_the_killed_worker_of_the_iterator_that_raised():
    process = multiprocessing.get_context('fork').Process(target=time.sleep, args=(60,))
    process.start()
    board = WorkerBoard(Photos(), 1)
    board.notes[0] = board.notes.new_tensor([process.pid, 0, 0])

    class Iterator:
        _workers = (process,)

        def __next__(self):
            process.kill()
            process.join()  # as when the iterator is shut down
            raise ConnectionResetError(104, 'Connection reset by peer')

    message = rf'worker 0 .*\(process {process.pid}\) was killed \(Killed\) after it had read photo_0\.jpg'
    with pytest.raises(WorkerError, match=message), named_worker_deaths():
        next(Iterator())
    board.notes.zero_()


def test_a_broken_pipe_of_something_else_stays_what_it_is():
    board = WorkerBoard(Photos(), 1)
    with pytest.raises(ConnectionResetError), named_worker_deaths():
        raise ConnectionResetError(104, 'Connection reset by peer')
    assert board.ended_while_reading() == []
