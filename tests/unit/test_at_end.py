"""What has the last word, where real processes cannot show it."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import textwrap
from pathlib import Path

import pytest

from pool_telemetry import _at_end
from pool_telemetry._at_end import AtEnd, write_to_stderr
from pool_telemetry._plan import Plan
from tests import programs

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


# Around a fork. What comes in the midst of it is raised there by a hook in C: no test could make it happen.

FORKS = f"""
    import ctypes, functools, os, runpy, signal
    from signal import SIG_BLOCK, SIGINT, SIGTERM, SIGUSR1

    def comes(number):
        return functools.partial(ctypes.CDLL(None)["raise"], number)

    def wait():
        # Without the package, as at start-up: its own hooks would come before.
        at_end, plan = (runpy.run_path(f"{Path(_at_end.__file__).parent}/{{name}}.py") for name in ("_at_end", "_plan"))
        at_end["AtEnd"](plan["Plan"](os.getpid() + 1, "", None, None), lambda _: True, lambda: True).wait()

    def blocked():
        return signal.pthread_sigmask(SIG_BLOCK, [])

    def fork(act=blocked):
        # How the child ends: 0 if that gives nothing or False.
        child = os.fork()
        if not child:
            os._exit(bool(act()))
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""


def tell(program: str) -> str:
    return programs.run(textwrap.dedent(FORKS) + textwrap.dedent(program)).strip()


@programs.once
@programs.needs_fork
class TestForks:
    """A program of a run."""

    def test_sigterm_is_let_through_where_a_handler_raises_in_the_midst(self) -> None:
        """Python prints what a function around a fork raises, and goes on."""
        program = """
            signal.signal(SIGINT, signal.default_int_handler)
            os.register_at_fork(before=comes(SIGINT))
            wait()
            print(fork(), blocked(), fork(), blocked())
        """
        assert tell(program) == "0 set() 0 set()"

    def test_sigterm_is_let_through_where_a_handler_forks_in_the_midst(self) -> None:
        program = """
            def handle(*_):
                signal.signal(SIGUSR1, signal.SIG_IGN)
                print(fork(), end=" ")

            signal.signal(SIGUSR1, handle)
            os.register_at_fork(before=comes(SIGUSR1))
            wait()
            print(fork(), blocked())
        """
        assert tell(program) == "0 0 set()"

    def test_what_a_handler_starts_in_the_midst_has_sigterm_unblocked(self) -> None:
        program = """
            import subprocess
            started = []

            def handle(*_):
                started.append(subprocess.Popen(["sleep", "60"]))

            signal.signal(SIGUSR1, handle)
            os.register_at_fork(before=comes(SIGUSR1))
            wait()
            print(fork(), blocked(), end=" ")
            for process in started:
                process.terminate()
                print(process.wait(10), end=" ")
        """
        assert tell(program) == "0 set() -15"

    def test_a_child_dies_of_a_sigterm_that_comes_in_the_midst(self) -> None:
        program = """
            os.register_at_fork(after_in_child=comes(SIGTERM))
            wait()
            print(fork(), blocked())
        """
        assert tell(program) == "-15 set()"

    def test_a_child_of_a_program_that_blocks_sigterm_itself_keeps_the_handler_for_when_it_comes(self) -> None:
        program = """
            os.register_at_fork(after_in_child=comes(SIGTERM))
            wait()
            signal.pthread_sigmask(SIG_BLOCK, [SIGTERM])
            print(fork(lambda: signal.getsignal(SIGTERM) == signal.SIG_DFL or blocked() != {SIGTERM}), blocked())
        """
        assert tell(program) == "0 {<Signals.SIGTERM: 15>}"

    def test_a_mask_of_the_programs_own_is_left_also_where_it_comes_after_a_fork(self) -> None:
        program = """
            wait()
            print(fork(), end=" ")
            signal.signal(SIGTERM, lambda *_: None)
            signal.pthread_sigmask(SIG_BLOCK, [SIGTERM])
            print(fork(lambda: blocked() != {SIGTERM}), blocked())
        """
        assert tell(program) == "0 0 {<Signals.SIGTERM: 15>}"

    def test_a_handler_of_the_programs_own_gets_it_as_ever(self) -> None:
        program = """
            seen = []
            os.register_at_fork(before=lambda: seen.append(blocked()))
            wait()
            print(fork(), end=" ")
            signal.signal(SIGTERM, lambda *_: None)
            print(fork(), seen)
        """
        assert tell(program) == "0 0 [{<Signals.SIGTERM: 15>}, set()]"

    def test_a_greenlet_of_gevent_is_the_thread_that_it_runs_in(self) -> None:
        """On Python 3.13 the handler is taken from children of other threads."""
        program = """
            wait()
            from gevent import monkey
            monkey.patch_thread()
            print(fork(lambda: signal.getsignal(SIGTERM) == signal.SIG_DFL))
        """
        assert tell(program) == "0"
