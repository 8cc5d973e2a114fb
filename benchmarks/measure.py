"""Lets the variants take turns, and makes figures of what they took."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from math import ceil
from pathlib import Path
from statistics import median, quantiles
from typing import Any, NamedTuple

from misbehaving import ServerProcess

from .variants import Row

CLOCKS = ("cpu", "wall")
GENERATIONS = 4
ROOT = Path(__file__).resolve().parents[1]


class WorkerError(Exception):
    """A worker ended before its time; what it said is on stderr."""


class Worker:
    """A process that makes requests.

    Args:
        is_on: whether the row's variant is switched on in it.
        prefix: what the interpreter is started by: valgrind, say.
        seed: of Python's hashes, one for all that are compared: where dicts collide is no difference of theirs.
    """

    def __init__(self, row: Row, url: str, *, is_on: bool, prefix: tuple[str, ...] = (), seed: int = 1) -> None:
        self._row = row
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "benchmarks.worker", row.client, row.name, "on" if is_on else "off", url],
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
    """What was found of one variant: nanoseconds for each request, by clock."""

    row: Row
    bare: dict[str, Figure]
    #: Of the pairs' differences.
    added: dict[str, Figure]
    #: Between the fastest tenth of blocks with the variant and that without: what neighbours took of the machine is not
    #: in it.
    added_at_best: dict[str, float]

    @classmethod
    def of(cls, row: Row, pairs: list[tuple[dict[str, float], dict[str, float]]]) -> Result:
        """From blocks without the variant and with it."""
        bare = {clock: [without[clock] for without, _ in pairs] for clock in CLOCKS}
        full = {clock: [with_it[clock] for _, with_it in pairs] for clock in CLOCKS}
        return cls(
            row,
            {clock: Figure.of(bare[clock]) for clock in CLOCKS},
            {clock: Figure.of([b - a for a, b in zip(bare[clock], full[clock], strict=True)]) for clock in CLOCKS},
            {clock: quantiles(full[clock], n=10)[0] - quantiles(bare[clock], n=10)[0] for clock in CLOCKS},
        )


@contextmanager
def server() -> Iterator[str]:
    """The URL of a small response, on a connection that stays open."""
    with ServerProcess() as process:
        yield f"{process.url}/ok"


def compare(rows: list[Row], rounds: int, progress: Callable[[str], None]) -> list[Result]:
    """Measures so many pairs of each row, with the variant and without, each in a process of its own.

    In each round the rows come in another order. Processes are started anew a few times: each has its memory laid out
    in another way, which makes a difference of a percent or two.
    """
    pairs: dict[Row, list[tuple[dict[str, float], dict[str, float]]]] = {row: [] for row in rows}
    with server() as url:
        for generation in range(GENERATIONS):
            progress(f"generation {generation + 1} of {GENERATIONS}")
            with ExitStack() as stack:

                def start(row: Row, *, is_on: bool, stack: ExitStack = stack, seed: int = generation + 1) -> Worker:
                    return stack.enter_context(Worker(row, url, is_on=is_on, seed=seed))

                on = {row: start(row, is_on=True) for row in rows}
                off = {row.kind: start(row, is_on=False) for row in {row.kind: row for row in rows}.values()}
                for worker in (*on.values(), *off.values()):
                    worker.hear()
                for number in range(ceil(rounds / GENERATIONS)):
                    for row in random.Random(f"{generation}/{number}").sample(rows, len(rows)):
                        workers = [off[row.kind], on[row]]
                        if number % 2:
                            with_it, without = workers[1].ask("block"), workers[0].ask("block")
                        else:
                            without, with_it = workers[0].ask("block"), workers[1].ask("block")
                        pairs[row].append((without, with_it))
    return [Result.of(row, found) for row, found in pairs.items()]
