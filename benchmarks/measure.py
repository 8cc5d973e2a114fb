"""Lets the variants take turns, and makes figures of what they took."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any, NamedTuple

from misbehaving import ServerProcess

from .variants import Row

ROOT = Path(__file__).resolve().parents[1]


class WorkerError(Exception):
    """A worker ended before its time; what it said is on stderr."""


class Worker:
    """A variant's process.

    Args:
        prefix: what the interpreter is started by: valgrind, say.
        seed: of Python's hashes, one for all that are compared: where dicts collide is no difference of theirs.
    """

    def __init__(self, row: Row, url: str, prefix: tuple[str, ...] = (), seed: int = 1) -> None:
        self._row = row
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "benchmarks.worker", row.client, row.name, url],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Worker:
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
            raise WorkerError(f"the worker of {self._row.name!r} ended")
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


class Figure(NamedTuple):
    """Median and quartiles."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Figure:
        """From at least two values."""
        low, _, high = quantiles(values, n=4, method="inclusive")
        return cls(low, median(values), high)


class Result(NamedTuple):
    """What was found of one variant: nanoseconds for each request."""

    row: Row
    bare: dict[str, Figure]
    added: dict[str, Figure]


@contextmanager
def server() -> Iterator[str]:
    """The URL of a small response, on a connection that stays open."""
    with ServerProcess() as process:
        yield f"{process.url}/ok"


def compare(rows: list[Row], rounds: int, progress: Callable[[str], None]) -> list[Result]:
    """Measures so many pairs of each row; in each round the rows come in another order."""
    found: dict[Row, list[dict[str, dict[str, float]]]] = {row: [] for row in rows}
    with server() as url, ExitStack() as stack:
        workers = {row: stack.enter_context(Worker(row, url)) for row in rows}
        for worker in workers.values():
            worker.hear()
        for number in range(rounds):
            progress(f"round {number + 1} of {rounds}")
            for row in random.Random(number).sample(rows, len(rows)):
                found[row].append(workers[row].ask("pair"))
    return [
        Result(
            row,
            {clock: Figure.of([pair["off"][clock] for pair in pairs]) for clock in ("cpu", "wall")},
            {clock: Figure.of([pair["on"][clock] - pair["off"][clock] for pair in pairs]) for clock in ("cpu", "wall")},
        )
        for row, pairs in found.items()
    ]
