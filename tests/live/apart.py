"""Runs a test's function in an interpreter or a child of its own: what hangs there is killed, and shows where."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CHILD_SECONDS = 60.0  # what hangs, hangs for ever; and a machine may be busy


def run_apart(function: Callable[..., object], *args: Any, seconds: float = 100) -> str:
    """Call a module's function in a new process and give what it printed; it fails, or hangs, as an assertion.

    Args:
        args: anything that its ``repr`` makes again.
        seconds: after so many all its threads' tracebacks are shown, and it is ended.
    """
    program = (
        f"import faulthandler; faulthandler.dump_traceback_later({seconds}, exit=True)\n"
        f"from {function.__module__} import {function.__name__}\n"
        f"{function.__name__}(*{args!r})\n"
    )
    found = [str(ROOT), str(ROOT / "examples"), os.environ.get("PYTHONPATH")]
    # Those first whom the environment names: they say which urllib3 is tested.
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, reversed(found)))}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds + 15,
    )
    assert done.returncode == 0, f"{function.__name__} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def in_child(work: Callable[[], Any]) -> Any:
    """What a forked child's work gives, by way of JSON; a child that hangs is killed and fails."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        # Nothing of the parent's may run on in here: no finally, no atexit.
        status = 1
        try:
            os.close(reader)
            with os.fdopen(writer, "w") as told:
                json.dump(work(), told)
            status = 0
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(status)
    os.close(writer)
    deadline = time.monotonic() + CHILD_SECONDS
    with os.fdopen(reader) as told:
        while True:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                break
            if time.monotonic() > deadline:
                os.kill(child, signal.SIGABRT)  # faulthandler shows where it hangs
                os.waitpid(child, 0)
                raise AssertionError("the child hangs")
            time.sleep(0.002)
        assert status == 0, f"the child ended with {status}"
        return json.loads(told.read())
