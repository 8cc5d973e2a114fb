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

from misbehaving import Server
from pool_telemetry import cli
from pool_telemetry._page import PIPE_WIDTH
from pool_telemetry._run import Run, read
from pool_telemetry._run_report import render_run
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


#: What no report may hold.
SECRET = "confidential"
ASK = f"""
import os, sys

def ask(times=1, path="/ok"):
    import urllib3
    with urllib3.PoolManager() as http:
        for _ in range(times):
            url = os.environ["SERVER"].replace("//", "//{SECRET}:{SECRET}@")
            http.request("GET", url + path + "?{SECRET}", headers={{"{SECRET}": "{SECRET}"}})
"""


class Told(NamedTuple):
    """How a program has ended.

    Attributes:
        err: what it has printed to stderr itself.
        report: what was printed behind that.
        run: what was kept, if anything.
    """

    code: int
    out: bytes
    err: bytes
    report: str
    run: Run | None

    @property
    def checkouts(self) -> list[int]:
        """Of each process that has told, the fewest first."""
        assert self.run is not None, self
        return sorted(sum(sum(each.checkouts.values()) for each in told.upstreams) for told in self.run.processes)

    @property
    def missing(self) -> tuple[int | None, int | None]:
        """How many processes have ended without a word, and how many still run."""
        assert self.run is not None, self
        return self.run.silent, self.run.running


class Stage:
    """Runs programs that ask a server, and looks at all that they leave behind."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self.kept = folder / "kept.json"
        self.temp = folder / "temp"
        self.temp.mkdir()
        write(folder, {"asks.py": ASK})

    def environment(self, **variables: str | None) -> dict[str, str]:
        path = os.pathsep.join([str(self.folder), surroundings()["PYTHONPATH"]])
        ours = {"SERVER": self.server.url, "TMPDIR": str(self.temp), "PYTHONPATH": path, "PYTHONUNBUFFERED": None}
        return surroundings(**{**ours, **variables})

    def python(self, *program: str, **variables: str | None) -> tuple[int, bytes, bytes]:
        """The outcome without us."""
        return outcome_of([*PYTHON, *program], self.folder, self.environment(**variables))

    def run(self, *program: str, options: Sequence[str] = (), **variables: str | None) -> Told:
        command = [*RUN, "-o", str(self.kept), *options, *program]
        return self.told(*outcome_of(command, self.folder, self.environment(**variables)))

    def told(self, code: int, out: bytes, err: bytes) -> Told:
        """What there is to see of a run that has ended."""
        program, report = cut(err)
        kept = self.kept.read_text()
        run = read(kept) if kept else None
        assert run is None or isinstance(run, Run)
        assert SECRET not in report.decode() + kept
        assert not self.left(), "the folder is still there"
        if report:
            assert run is not None
            assert report.decode() == render_run(run, width=PIPE_WIDTH, is_coloured=False)
        return Told(code, out, program, report.decode(), run)

    def left(self) -> list[str]:
        """The folders of runs that are still there."""
        return os.listdir(self.temp)
