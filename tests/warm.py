"""A process that has done the slow imports and forks for every command: JSON lines in, exit statuses out.

Imports take most of the time of a small command. Only libraries are imported here, nothing of mmssl and
nothing that registers types, so that a command still has to import everything it needs.
"""

import atexit
import contextlib
import gc
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
    # what the toolboxes import
    'sklearn.gaussian_process',
    'numba',
    'imgaug',
    'shapely.geometry',
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
    """Start the ranks of a request with torchrun's environment; when one fails, end the others."""
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


def run_in_fork(request: dict) -> None:
    """Set up the session, the output files and the folder of a fork, then run the command."""
    status = 1
    try:
        os.setsid()
        for descriptor, name in ((1, 'stdout'), (2, 'stderr')):
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
            os.dup2(os.open(request[name], flags), descriptor)
        os.chdir(request['cwd'])
        os.environ.update(request['env'])
        status = (ranks if request['ranks'] > 1 else child)(request)
    finally:
        leave(status)


def cache_formatting() -> None:
    """Cache yapf: mmengine formats the same config for every log and checkpoint, for a second each time."""
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
    """Serve requests until the input ends."""
    gc.disable()
    for name in LIBRARIES:
        with contextlib.suppress(ImportError):
            __import__(name)
    gc.freeze()  # forks share the memory of what no collection visits
    gc.enable()
    cache_formatting()
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if not pid:
            run_in_fork(request)
        print(json.dumps({'pid': pid}), flush=True)
        print(json.dumps({'status': os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}), flush=True)


if __name__ == '__main__':
    serve()
