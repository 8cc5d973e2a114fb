"""What has the last word, where real processes cannot show it."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from pathlib import Path

import pytest

from pool_telemetry._at_end import AtEnd, write_to_stderr
from pool_telemetry._plan import Plan

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="missing: signals as POSIX has them")


def test_a_python_that_is_too_old_for_us_is_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Seen: 3.6 to 3.9 crash where atexit is taken out of sys.modules."""
    monkeypatch.setattr(sys, "version_info", (3, 9, 18))
    before = signal.getsignal(signal.SIGTERM), atexit._ncallbacks()
    AtEnd(Plan(os.getpid(), str(tmp_path / "run"), None, None), lambda _: True, lambda: False).wait()
    assert (signal.getsignal(signal.SIGTERM), atexit._ncallbacks()) == before
    assert os.listdir(tmp_path) == []


class Stderr:
    """A file with this descriptor."""

    def __init__(self, descriptor: int) -> None:
        os.set_inheritable(descriptor, True)  # as that of a real one is
        self._descriptor = descriptor

    def fileno(self) -> int:
        return self._descriptor


def test_a_stderr_that_does_not_block_gets_all_as_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    monkeypatch.setattr(sys, "__stderr__", Stderr(writing))
    data = bytes(range(256)) * 2000
    got = bytearray()

    def read() -> None:
        while len(got) < len(data):
            got.extend(os.read(reading, 10_000))

    reader = threading.Thread(target=read)
    reader.start()
    write_to_stderr(data)
    reader.join()
    os.close(reading)
    os.close(writing)
    assert bytes(got) == data


def test_a_stderr_that_nobody_reads_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    monkeypatch.setattr(sys, "__stderr__", Stderr(writing))
    monkeypatch.setattr("time.sleep", lambda _: None)
    write_to_stderr(b"x" * 1_000_000)
    os.close(reading)
    write_to_stderr(b"x")  # broken
    os.close(writing)
    write_to_stderr(b"x")  # closed
