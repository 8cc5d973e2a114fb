"""Compares what was noted of a run without us with what was noted of one with us."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .suites import Suite

_NOT_RUN = "not run"
#: The columns of the table. Calls are those of ``_get_conn`` in the run without us, all else is of the other.
COLUMNS = ("tests", "passed", "failed", "skipped", "left out", "changed", "calls", "checkouts", "spans", "points")


@dataclass(frozen=True)
class Change:
    """A test with another outcome."""

    test: str
    before: str
    after: str
    report: str
    """What pytest said of it, where it failed."""

    def __str__(self) -> str:
        lines = [f"{self.test}: {self.before} -> {self.after}", *self.report.splitlines()]
        return "\n    | ".join(lines)


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[Change]:
    """Tests of two runs whose outcomes differ; one that was run in one of them only is among them."""
    was, now = before["outcomes"], after["outcomes"]
    return [
        Change(
            test,
            was.get(test, _NOT_RUN),
            now.get(test, _NOT_RUN),
            after["reports"].get(test) or before["reports"].get(test, ""),
        )
        for test in sorted(was.keys() | now.keys())
        if was.get(test) != now.get(test)
    ]


def complaints(suite: Suite, without: dict[str, Any], watched: dict[str, Any]) -> Iterator[str]:
    """What is wrong with the two runs, each in some lines."""
    for change in changes(without, watched):
        yield str(change)
    if len(watched["outcomes"]) < suite.tests:
        yield f"{len(watched['outcomes'])} tests were run: there are {suite.tests} at least"
    for fault in watched["faults"]:
        yield f"a fault of ours was logged: {fault}"
    for part in watched["off"]:
        yield f"switched off at the end: {part}"
    if watched["checkouts"] != watched["calls"]:
        astray = "".join(f"\n    {number:+} in {test}" for test, number in watched["astray"].items())
        yield f"{watched['calls']} calls of _get_conn, but {watched['checkouts']} checkouts were told{astray}"
    if watched["checkouts"] < suite.checkouts:
        yield f"{watched['checkouts']} checkouts: the suite makes {suite.checkouts} at least"
    if watched["laws"]:
        yield f"the figures do not obey the laws: {watched['laws']}"
    for emitted in ("spans", "points"):
        if not watched[emitted]:
            yield f"no {emitted} were emitted"


def row(without: dict[str, Any], watched: dict[str, Any]) -> dict[str, int]:
    """The numbers of both runs."""
    kinds = Counter(_kind(outcome) for outcome in watched["outcomes"].values())
    return {
        "tests": len(watched["outcomes"]),
        **{kind: kinds[kind] for kind in ("passed", "failed", "skipped")},
        "left out": sum(watched["left_out"].values()),
        "changed": len(changes(without, watched)),
        "calls": without["calls"],
        **{name: watched[name] for name in ("checkouts", "spans", "points")},
    }


def _kind(outcome: str) -> str:
    if "failed" in outcome.replace("xfailed", ""):
        return "failed"
    return "skipped" if "skipped" in outcome else "passed"
