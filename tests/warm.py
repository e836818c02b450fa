"""A process that has done the slow imports and forks for every command it is sent: JSON lines in, exit statuses out.

Seconds of imports are most of what a small command costs. Only libraries are imported here, none of ours and none that registers parts, so
that a command still finds everything by itself.
"""

import atexit
import contextlib
import json
import os
import sys
import traceback

LIBRARIES = ('torch', 'torchvision', 'numpy', 'cv2', 'scipy.stats', 'PIL.Image', 'matplotlib.figure', 'mmengine.runner', 'mmcv.transforms',
             'mmcv.cnn', 'sklearn', 'pycocotools.coco', 'mmengine.visualization', 'transformers')


def child(request: dict) -> int:
    """Run one command in this process."""
    out, err = (os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC) for name in ('stdout', 'stderr'))
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.chdir(request['cwd'])
    sys.argv = ['mmssl', *request['arguments']]
    try:
        from mmssl.cli import main
        return main(request['arguments'])
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1


def serve() -> None:
    """Answer requests until the input ends."""
    for name in LIBRARIES:
        with contextlib.suppress(ImportError):
            __import__(name)
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if not pid:
            os.setsid()
            status = 1
            try:
                status = child(request)
                atexit._run_exitfuncs()
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(status)
        print(json.dumps({'pid': pid}), flush=True)
        print(json.dumps({'status': os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}), flush=True)


if __name__ == '__main__':
    serve()
