"""Runs a test's function in an interpreter of its own: what hangs there is killed, and shows where."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def run_apart(function: Callable[..., object], *args: Any, seconds: float = 30) -> str:
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
