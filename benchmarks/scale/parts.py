"""What the parts of the bench at scale have in common: how much they do, what they find, and their servers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from benchmarks.instructions import why_not
from benchmarks.measure import Figure
from benchmarks.process import ROOT

Progress = Callable[[str], None]
CPU, WALL = "cpu", "wall"


class Extent(NamedTuple):
    """How much is done."""

    generations: int
    rounds: int
    sockets: tuple[int, ...]
    weighed: int
    churned: int
    turned: int
    seconds: float
    counts_instructions: bool

    @property
    def can_count(self) -> bool:
        """Whether instructions are wanted and can be counted."""
        return self.counts_instructions and why_not() is None


FULL = Extent(5, 6, (10, 100, 1_000, 10_000), 15_000, 100_000, 10_000_000, 10.0, True)
SHORT = Extent(2, 2, (10, 1_000, 5_000), 500, 1_000, 100_000, 3.0, True)


class Verdict(NamedTuple):
    """A ratio, or another figure, that has a target.

    Attributes:
        most: the target; it is met by what is no greater.
        limit: beyond which ``--check`` fails, also on a machine that is loaded; ``None`` if its noise allows for none.
    """

    what: str
    found: float
    most: float
    limit: float | None = None

    def __str__(self) -> str:
        missed = "" if self.found <= self.most else "; MISSED"
        beyond = "" if self.is_kept else f"; PASSED THE LIMIT {self.limit:g}"
        return f"{self.what}: {self.found:.3g} (target {self.most:.3g}{missed}{beyond})"

    @property
    def is_kept(self) -> bool:
        """Whether the limit was not passed."""
        return self.limit is None or self.found <= self.limit


class Found(NamedTuple):
    """What a part has found: text with tables, in Markdown, and everything as data."""

    text: str
    verdicts: list[Verdict]
    data: Any


@contextmanager
def serving(name: str, *arguments: str) -> Iterator[str]:
    """The port of a server, which runs meanwhile."""
    command = [sys.executable, "-m", f"benchmarks.scale.servers.{name}", *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]], words: int) -> str:
    """In Markdown; columns after the first ones, which hold words, are aligned to the right."""
    rule = "---|" * words + "--:|" * (len(heads) - words)
    return "\n".join([f"| {' | '.join(heads)} |", f"|{rule}", *(f"| {' | '.join(row)} |" for row in rows)])


def micro(figure: Figure) -> str:
    """Nanoseconds as microseconds: the median, and the quartiles."""
    return f"{figure.median / 1000:,.1f} ({figure.low / 1000:,.1f} … {figure.high / 1000:,.1f})"


def ratio(figure: Figure) -> str:
    """The median, and the quartiles."""
    return f"{figure.median:.2f} ({figure.low:.2f} … {figure.high:.2f})"
