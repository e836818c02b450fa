"""The cache of remote files: its size, what it removes, several processes, and processes that are killed."""

import multiprocessing
import os
import signal
import time

import pytest

from mmssl.data.file_cache import FileCache, parse_size


def stored(folder):
    return [path for path in folder.rglob('*') if path.parent != folder and path.is_file()]


def size(folder):
    return sum(path.stat().st_size for path in stored(folder))


def test_an_entry_is_what_was_stored_and_the_oldest_are_removed(tmp_path):
    cache = FileCache(str(tmp_path), 1000)
    for number in range(9):
        cache.put(str(number), bytes([number]) * 100)
        os.utime(cache._path(str(number)), (number, number))
    assert all(cache.get(str(number)) == bytes([number]) * 100 for number in range(9))
    for number in range(9):
        os.utime(cache._path(str(number)), (number, number))
    assert cache.get('0') is not None  # read last, though stored first
    cache.put('9', b'9' * 100)
    assert size(tmp_path) <= 1000
    assert cache.get('0') and cache.get('9') and cache.get('8') and cache.get('1') is None


def test_large_and_damaged_entries_are_none(tmp_path):
    cache = FileCache(str(tmp_path), 1000)
    cache.put('large', b'x' * 1000)
    assert cache.get('large') is None and not tmp_path.joinpath('total').exists()
    cache.put('a', b'x' * 100)
    (path,) = stored(tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    assert cache.get('a') is None
    FileCache(str(tmp_path), 0).put('b', b'x')
    assert FileCache(str(tmp_path), 0).get('b') is None


def fill(folder, seed):
    cache = FileCache(folder, 20_000)
    for number in range(200):
        key = str((7 * number + seed) % 50)
        data = cache.get(key)
        assert data in (None, key.encode() * 500), key
        if data is None:
            cache.put(key, key.encode() * 500)


def test_several_processes_share_a_cache_that_stays_below_its_size(tmp_path):
    context = multiprocessing.get_context('fork')
    processes = [context.Process(target=fill, args=(str(tmp_path), seed)) for seed in range(3)]
    for process in processes:
        process.start()
    cache = FileCache(str(tmp_path), 20_000)
    while any(process.is_alive() for process in processes):
        with cache._locked():
            assert sum(size for _, size, _ in cache._entries()) <= 20_000
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(list(cache._entries())) >= 8


def test_a_killed_process_leaves_no_part_of_an_entry(tmp_path):
    context = multiprocessing.get_context('fork')
    for delay in (0.01, 0.03):
        process = context.Process(target=fill, args=(str(tmp_path), 1))
        process.start()
        time.sleep(delay)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    fill(str(tmp_path), 2)
    abandoned = tmp_path / '00'
    abandoned.mkdir(exist_ok=True)
    (abandoned / 'x.1.2.tmp').write_bytes(b'')
    os.utime(abandoned / 'x.1.2.tmp', (0, 0))
    fill(str(tmp_path), 3)
    assert not (abandoned / 'x.1.2.tmp').exists()


def test_sizes():
    assert [parse_size(text) for text in ('10GB', '500M', '2 kib', '1.5T', '0', '7')] == [
        10 << 30,
        500 << 20,
        2048,
        3 << 39,
        0,
        7,
    ]
    with pytest.raises(ValueError, match="'much' is no size; give for example 10GB"):
        parse_size('much')
