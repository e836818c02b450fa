"""A process that has done the slow imports and forks for every command it is sent: JSON lines in, exit statuses out.

Seconds of imports are most of what a small command costs. Only libraries are imported here, none of ours and
none that registers parts, so that a command still finds everything by itself.
"""

import atexit
import contextlib
import json
import os
import runpy
import signal
import socket
import sys
import traceback

LIBRARIES = (
    'torch',
    'torchvision',
    'numpy',
    'cv2',
    'scipy.stats',
    'PIL.Image',
    'matplotlib.figure',
    'mmengine.runner',
    'mmcv.transforms',
    'mmcv.cnn',
    'sklearn',
    'skimage',
    'pycocotools.coco',
    'mmengine.visualization',
    'transformers',
    'timm',
    'torch.distributed.fsdp',
)


def child(request: dict) -> int:
    """Run one command, or one program, in this process."""
    arguments, program = request['arguments'], request['program']
    sys.argv = [program or 'mmssl', *arguments]
    sys.path[0] = (
        os.path.dirname(program) if program else request['cwd']
    )  # as ``python program`` and ``python -m mmssl.cli`` have it
    try:
        if program:
            runpy.run_path(program, run_name='__main__')
            return 0
        from mmssl.cli import main

        return main(arguments)
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1


def leave(status: int) -> None:
    """End this process as an interpreter ends."""
    try:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status & 0xFF)


def ranks(request: dict) -> int:
    """As many processes as the request says, with the environment that torchrun gives them; when one fails, the others are ended."""
    with socket.socket() as server:
        server.bind(('127.0.0.1', 0))
        port = str(server.getsockname()[1])
    world = str(request['ranks'])
    running = []
    for rank in map(str, range(request['ranks'])):
        pid = os.fork()
        if not pid:
            os.environ.update(
                RANK=rank,
                LOCAL_RANK=rank,
                WORLD_SIZE=world,
                LOCAL_WORLD_SIZE=world,
                MASTER_ADDR='127.0.0.1',
                MASTER_PORT=port,
            )
            leave(child(request))
        running.append(pid)
    status = 0
    while running:
        pid, ended = os.wait()
        running.remove(pid)
        if ended and not status:
            status = 1
            for other in running:
                os.kill(other, signal.SIGKILL)
    return status


def answer(request: dict) -> None:
    """What the fork does: its own session, output files and folder, then the command."""
    status = 1
    try:
        os.setsid()
        for number, name in ((1, 'stdout'), (2, 'stderr')):
            os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND), number)
        os.chdir(request['cwd'])
        os.environ.update(request['env'])
        status = (ranks if request['ranks'] > 1 else child)(request)
    finally:
        leave(status)


def remember_formatted() -> None:
    """mmengine formats the same config once a log and once a checkpoint, for a second each time: do it once a process."""
    with contextlib.suppress(ImportError):
        from yapf.yapflib import yapf_api

        plain, known = yapf_api.FormatCode, {}

        def format_code(text, **options):
            key = (text, repr(options))
            if key not in known:
                known[key] = plain(text, **options)
            return known[key]

        yapf_api.FormatCode = format_code


def serve() -> None:
    """Answer requests until the input ends."""
    for name in LIBRARIES:
        with contextlib.suppress(ImportError):
            __import__(name)
    remember_formatted()
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if not pid:
            answer(request)
        print(json.dumps({'pid': pid}), flush=True)
        print(json.dumps({'status': os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}), flush=True)


if __name__ == '__main__':
    serve()
