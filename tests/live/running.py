"""Programs as they are run by ``python``, and by ``pool-telemetry run``."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pool_telemetry import cli
from tests.programs import environment

SECONDS = 60
PYTHON = [sys.executable]
COMMAND = [os.path.join(sysconfig.get_path("scripts"), "pool-telemetry")]
RUN = [*COMMAND, "run"]
UNREPORTED = [*RUN, "--no-report"]
#: All that the report is where there was no pool.
NO_POOLS = b"pool_telemetry has seen no connection pool in this program.\n"


class Outcome(NamedTuple):
    """What a program shows to the world."""

    code: int
    out: bytes
    err: bytes


def outcome_of(command: Sequence[str], folder: Path, env: Mapping[str, str], stdin: bytes = b"") -> Outcome:
    done = subprocess.run(command, cwd=folder, env=env, input=stdin, capture_output=True, timeout=SECONDS)
    return Outcome(done.returncode, done.stdout, done.stderr)


def surroundings(**variables: str | None) -> dict[str, str]:
    """An environment with these variables; ``None`` takes one away."""
    found = {**environment(), **variables}
    return {name: value for name, value in found.items() if value is not None}


def hooked(env: Mapping[str, str]) -> dict[str, str]:
    """The environment with the hook in it, as documented for a shell."""
    path = env.get("PYTHONPATH")
    return {**env, "PYTHONPATH": f"{cli.HOOK}{os.pathsep}{path}" if path else cli.HOOK}


def write(folder: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")


def unreported(outcome: Outcome) -> Outcome:
    """The outcome without the report, which has to be there."""
    program, report = cut(outcome.err)
    assert report, outcome
    return outcome._replace(err=program)


def cut(err: bytes) -> tuple[bytes, bytes]:
    """What the program itself has printed, and the report."""
    if err.endswith(NO_POOLS):
        return err.removesuffix(NO_POOLS), NO_POOLS
    program, begin, rest = err.partition(b"\nConnection pools of ")
    return program, (begin + rest).removeprefix(b"\n")
