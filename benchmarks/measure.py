"""Lets the variants take turns, and makes figures of what they took."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from statistics import median, quantiles
from typing import NamedTuple

from .process import ROOT, Process
from .rows import Row

CLOCKS = ("cpu", "wall")


class Worker(Process):
    """A process that makes requests.

    Args:
        is_on: whether the row's variant is switched on in it.
    """

    def __init__(
        self,
        row: Row,
        url: str,
        *,
        is_on: bool,
        prefix: tuple[str, ...] = (),
        seed: int = 1,
        layout: str | None = None,
    ) -> None:
        arguments = (row.client, row.name, "on" if is_on else "off", url)
        super().__init__("benchmarks.worker", *arguments, prefix=prefix, seed=seed, layout=layout)


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


#: What a block took, and what a block with a variant took beside one without: nanoseconds for each request, by clock.
Times = dict[str, float]
Pair = tuple[Times, Times]


class Result(NamedTuple):
    """What was found of one variant: nanoseconds for each request, by clock."""

    row: Row
    bare: dict[str, Figure]
    #: Of the pairs' differences.
    added: dict[str, Figure]
    #: Of the generations; in each, between the fastest tenth of blocks with the variant and that without: what
    #: neighbours took of the machine is not in it.
    added_at_best: dict[str, Figure]

    @classmethod
    def of(cls, row: Row, generations: list[list[Pair]]) -> Result:
        """From the pairs of each generation."""
        pairs = [pair for generation in generations for pair in generation]
        return cls(
            row,
            {clock: Figure.of([without[clock] for without, _ in pairs]) for clock in CLOCKS},
            {clock: Figure.of([with_it[clock] - without[clock] for without, with_it in pairs]) for clock in CLOCKS},
            {clock: Figure.of([_at_best(generation, clock) for generation in generations]) for clock in CLOCKS},
        )


def _at_best(pairs: list[Pair], clock: str) -> float:
    without, with_it = (
        quantiles([block[clock] for block in side], n=10, method="inclusive")[0] for side in zip(*pairs, strict=True)
    )
    return float(with_it - without)


@contextmanager
def server() -> Iterator[str]:
    """The URL of a small response, on a connection that stays open."""
    command = [sys.executable, "-m", "benchmarks.server"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}/ok"
        finally:
            process.kill()


def compare(rows: list[Row], generations: int, rounds: int, progress: Callable[[str], None]) -> list[Result]:
    """Measures pairs of each row, with the variant and without, each in a process of its own.

    Args:
        generations: so often the processes are started anew, each with other hashes and another layout of its memory,
            which make a difference of a percent or two.
        rounds: so many pairs in each generation; in each round the rows come in another order.
    """
    found: dict[Row, list[list[Pair]]] = {row: [] for row in rows}
    with server() as url:
        for generation in range(1, generations + 1):
            progress(f"generation {generation} of {generations}")
            pairs = _generation(rows, rounds, url, random.Random(generation))
            for row in rows:
                found[row].append(pairs[row])
    return [Result.of(row, pairs) for row, pairs in found.items()]


def _generation(rows: list[Row], rounds: int, url: str, dice: random.Random) -> dict[Row, list[Pair]]:
    pairs: dict[Row, list[Pair]] = {row: [] for row in rows}
    with ExitStack() as stack:

        def start(row: Row, *, is_on: bool) -> Worker:
            seed = dice.randrange(1, 2**32)
            return stack.enter_context(Worker(row, url, is_on=is_on, seed=seed, layout=str(seed)))

        on = {row: start(row, is_on=True) for row in rows}
        off = {row.kind: start(row, is_on=False) for row in {row.kind: row for row in rows}.values()}
        for worker in (*on.values(), *off.values()):
            worker.hear()
        for number in range(rounds):
            for row in dice.sample(rows, len(rows)):
                if number % 2:
                    with_it, without = on[row].ask("block"), off[row.kind].ask("block")
                else:
                    without, with_it = off[row.kind].ask("block"), on[row].ask("block")
                pairs[row].append((without, with_it))
    return pairs
