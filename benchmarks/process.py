"""Processes of the bench: each is told lines, and answers with lines of JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, TypeVar

from . import LAYOUT

ROOT = Path(__file__).resolve().parents[1]
P = TypeVar("P", bound="Process")


class WorkerError(Exception):
    """A worker ended before its time; what it said is on stderr."""


class Process:
    """A process of its own, which ends when its stdin does.

    Args:
        module: that is run.
        arguments: of the module.
        prefix: what the interpreter is started by: valgrind, say.
        seed: of Python's hashes, for where dicts collide.
        layout: of the process's memory, left as it comes unless given.
    """

    def __init__(
        self, module: str, *arguments: str, prefix: tuple[str, ...] = (), seed: int = 1, layout: str | None = None
    ) -> None:
        self._name = " ".join((module, *arguments))
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-m", module, *arguments],
            env=_environment() | {"PYTHONHASHSEED": str(seed)} | ({LAYOUT: layout} if layout else {}),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self: P) -> P:
        return self

    def __exit__(self, *exc_info: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def hear(self) -> Any:
        """The next answer."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise WorkerError(f"the worker {self._name!r} ended")
        return json.loads(line)

    def tell(self, command: str) -> None:
        """Give a command."""
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def ask(self, command: str) -> Any:
        """The answer to one command."""
        self.tell(command)
        return self.hear()


def _environment() -> dict[str, str]:
    """As a program finds it that has been started before: Python may keep what it has compiled."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
