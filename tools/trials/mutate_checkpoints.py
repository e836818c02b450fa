"""Load mutated checkpoints: each has to load, or to be refused in one line; no process may crash or hang.

The bytes of archives, streams and safetensors files are changed at random, and so are those of the pickle
inside an archive, whose checksum is then renewed:

    python tools/trials/mutate_checkpoints.py 1000
"""

import argparse
import collections
import io
import random
import resource
import signal
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

MEMORY = 6 << 30
SECONDS = 20


def samples() -> dict[str, bytes]:
    """Return small checkpoints of every format, with all that toolboxes save."""
    import numpy as np
    import torch
    from mmengine.logging import HistoryBuffer
    from safetensors.torch import save

    weights = torch.nn.Linear(3, 2).state_dict()
    content = dict(
        state_dict=weights,
        optimizer=torch.optim.AdamW(torch.nn.Linear(3, 2).parameters()).state_dict(),
        meta=dict(epoch=1, iter=7, palette=np.arange(6).reshape(2, 3), loss=np.float32(2), name=np.str_('a')),
        arguments=argparse.Namespace(lr=0.1, betas=(0.9, 0.999)),
        message_hub=dict(log_scalars=dict(loss=HistoryBuffer([1.0, 2.0], [1, 1]))),
    )
    files = {}
    for name, archive in (('zip', True), ('stream', False)):
        buffer = io.BytesIO()
        torch.save(content, buffer, _use_new_zipfile_serialization=archive)
        files[name] = buffer.getvalue()
    files['safetensors'] = save(dict(weights))
    return files


def mutated(name: str, content: bytes, generator: random.Random) -> bytes:
    """Return a file with random changes."""
    if name == 'zip' and generator.random() < 0.8:
        return _with_mutated_pickle(content, generator)
    if name == 'stream' and generator.random() < 0.8:
        return _changed(content[:3000], generator) + content[3000:]
    return _changed(content, generator)


def _with_mutated_pickle(content: bytes, generator: random.Random) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(buffer, 'w') as target:
        for entry in source.infolist():
            data = source.read(entry)
            target.writestr(
                entry.filename, _changed(data, generator) if 'data.pkl' in entry.filename else data
            )
    return buffer.getvalue()


def _changed(content: bytes, generator: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(generator.choice((1, 1, 2, 4, 8))):
        position = generator.randrange(len(data))
        action = generator.randrange(6)
        if action < 3:
            data[position] = generator.choice((0, 1, 255, generator.randrange(256), data[position] ^ 1))
        elif action == 3:
            del data[position : position + generator.randrange(1, 12)]
        elif action == 4:
            start = generator.randrange(len(data))
            data[position:position] = data[start : start + generator.randrange(1, 60)]
        else:
            data[position:position] = generator.randbytes(generator.randrange(1, 5))
        if not data:
            break
    return bytes(data)


def load_mutated(first: int, last: int) -> None:
    """Load the files of some seeds, and print the outcome of each; runs in a process of its own."""
    from mmssl.checkpoint import load_file

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    originals = samples()
    names = sorted(originals)
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(first, last):
            name = names[seed % len(names)]
            path = Path(folder) / f'{seed}.{"safetensors" if name == "safetensors" else "pth"}'
            path.write_bytes(mutated(name, originals[name], random.Random(seed)))
            print(seed, end=' ', flush=True)
            signal.alarm(SECONDS)  # a hang ends the process
            try:
                load_file(path)
                outcome = 'loaded'
            except (ValueError, OSError) as error:
                outcome = 'refused' if '\n' not in str(error) else f'wrong: lines in {str(error)!r}'
            except Exception as error:
                outcome = f'wrong: {type(error).__name__}: {str(error)[:200]!r}'
            signal.alarm(0)
            print(outcome, flush=True)
            path.unlink()


def trial(count: int, start: int = 0) -> tuple[collections.Counter, list[str]]:
    """Return how often each outcome occurred, and the seeds with wrong ones."""
    outcomes: collections.Counter = collections.Counter()
    wrong = []
    first = start
    while first < start + count:
        command = [sys.executable, __file__, '--range', str(first), str(start + count)]
        done = subprocess.run(command, capture_output=True, text=True)
        lines = done.stdout.splitlines()
        for line in lines:
            outcome = line.partition(' ')[2] or f'crash (exit {done.returncode})'
            outcomes[outcome.split(':')[0]] += 1
            if outcome not in ('loaded', 'refused'):
                wrong.append(line if ':' in outcome else f'{line} {outcome} {done.stderr[-300:]}')
        if not lines:
            raise RuntimeError(done.stderr)
        first += len(lines)
    return outcomes, wrong


def main() -> int:
    """Run the trial and print its counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('count', nargs='?', type=int, default=1000)
    parser.add_argument('--range', nargs=2, type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.range:
        load_mutated(*args.range)
        return 0
    outcomes, wrong = trial(args.count)
    print(f'{args.count} mutated checkpoints: {", ".join(f"{n} {what}" for what, n in outcomes.items())}')
    print(*wrong, sep='\n')
    return bool(wrong)


if __name__ == '__main__':
    sys.exit(main())
