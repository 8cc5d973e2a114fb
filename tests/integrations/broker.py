"""A real broker for Celery: Redis, on a socket of its own, which keeps nothing."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integrations.services import started


@contextmanager
def brokering(folder: Path) -> Iterator[str]:
    """A Redis that answers, until the block ends; gives its URL, to which the number of a database may be added.

    Args:
        folder: for its socket and its log.
    """
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("missing: redis-server, of Debian's package of that name")
    path = folder / "redis.sock"
    command = [program, "--port", "0", "--unixsocket", str(path), "--save", "", "--appendonly", "no"]
    with started(command, folder / "redis.log", folder, is_ready=lambda: _is_listening(path)):
        yield f"redis+socket://{path}?virtual_host="


def _is_listening(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0
