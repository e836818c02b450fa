"""``mmssl demo`` in a process of its own, and Chromium."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys

CHROMIUM = next(
    (path for path in map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome')) if path), None
)
SMALL = ('--model', 'smoke/sam.py', '--checkpoint', 'random')


class PageProcess:
    """A page that is served by ``mmssl demo``.

    Args:
        repo_root: Root of the checkout.
        options: Arguments of the command.
        port: Port; a free one if None.
    """

    def __init__(self, repo_root, *options, port=None):
        if port is None:
            with socket.socket() as free:
                free.bind(('127.0.0.1', 0))
                port = free.getsockname()[1]
        self.port = port
        command = [sys.executable, '-m', 'mmssl.cli', 'demo', '--no-browser', '--port', str(port)]
        self.process = subprocess.Popen(
            [*command, *map(str, options)],
            cwd=repo_root,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(repo_root), 'no_proxy': '127.0.0.1'},
        )
        seen = []
        for line in self.process.stdout:
            seen.append(line)
            if found := re.match(r'(http://\S+)', line):
                self.url = found[1]
                return
        raise AssertionError(''.join(seen))

    def kill(self):
        """End it without a chance to save anything."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(timeout=120)

    def stop(self):
        """End it as Ctrl-C does."""
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(timeout=120) == 0
