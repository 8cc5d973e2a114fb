"""A real broker for Celery: Redis, on a socket of its own, which keeps nothing."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integrations.services import PATIENCE


@contextmanager
def brokering(folder: Path) -> Iterator[str]:
    """A Redis that answers, until the block ends; gives its URL, to which the number of a database may be added.

    Args:
        folder: for its socket and its log.
    """
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("missing: redis-server, of Debian's package of that name")
    socket, log = folder / "redis.sock", folder / "redis.log"
    options = {"port": "0", "unixsocket": str(socket), "save": "", "appendonly": "no", "dir": str(folder)}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [program, *(word for name, value in options.items() for word in (f"--{name}", value))],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        deadline = time.monotonic() + PATIENCE
        while not socket.exists():  # Redis makes it when it is about to listen
            assert process.poll() is None, log.read_text(errors="replace")
            assert time.monotonic() < deadline, log.read_text(errors="replace")
            time.sleep(0.05)
        yield f"redis+socket://{socket}?virtual_host="
    finally:
        process.kill()
        process.wait()
