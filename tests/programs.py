"""Programs that need an interpreter of their own: OpenTelemetry's global providers can be set once only."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.bare_platform import IS_BARE

#: A bared platform does not reach into the programs: to run them there again would tell nothing new.
once = pytest.mark.skipif(IS_BARE, reason="missing: what is bared, and programs would have it")

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="missing: os.fork")

#: A Python for what is to be interrupted: where tests run in the background they may ignore SIGINT, and so would it.
INTERRUPTIBLE = [
    sys.executable,
    "-c",
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])",
    sys.executable,
]

ROOT = Path(__file__).parents[1]


def environment(path: Sequence[Path] = (), **variables: str) -> dict[str, str]:
    """This process's environment without settings of ours or of OpenTelemetry, and with the test's modules in reach."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "POOL_TELEMETRY_"))}
    inherited = [kept["PYTHONPATH"]] if kept.get("PYTHONPATH") else []
    first = [str(each) for each in path]
    kept["PYTHONPATH"] = os.pathsep.join([*first, *inherited, str(ROOT), str(ROOT / "examples")])
    return {**kept, **variables}


def run(program: str, path: Sequence[Path] = (), **variables: str) -> str:
    """Run a program, with warnings as errors; gives what it printed.

    Args:
        path: folders to import from before all others.
        variables: of the environment.
    """
    outcome = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(path, **variables),
    )
    assert outcome.returncode == 0, outcome.stderr
    return outcome.stdout
