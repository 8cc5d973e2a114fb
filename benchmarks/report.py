"""Tables and JSON of what was found, and the limits that it is held against."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import distributions, version
from typing import Any

from .instructions import Instructions
from .measure import Result
from .rows import DEFAULT, INCUMBENT, METRICS, NOOP, RECORDED, Row

PACKAGES = (
    "urllib3",
    "requests",
    "wrapt",
    "opentelemetry-sdk",
    "opentelemetry-instrumentation-urllib3",
    "opentelemetry-instrumentation-requests",
    "ddtrace",
)
#: What pool_telemetry may add, of what another variant adds: (of what, instructions or CPU time, at most, aimed at).
#: Instructions bring little noise. Times on a shared machine do: they are only to show a disaster.
LIMITS = {
    METRICS: (
        (NOOP, "instructions", 2.0, 1.6),
        (INCUMBENT, "instructions", 1 / 20, 1 / 40),
        (INCUMBENT, "time", 1 / 4, 1 / 40),
    ),
    DEFAULT: (
        (NOOP, "instructions", 2.0, 1.6),
        (INCUMBENT, "instructions", 1 / 20, 1 / 40),
        (INCUMBENT, "time", 1 / 4, 1 / 40),
    ),
    RECORDED: ((INCUMBENT, "instructions", 1 / 9, 1 / 12), (INCUMBENT, "time", 1 / 2, 1 / 12)),
}


def machine() -> dict[str, Any]:
    """What the figures were found on."""
    found: dict[str, Any] = {"python": platform.python_version(), "system": platform.system(), "cpu": _cpu()}
    there = {distribution.name for distribution in distributions()}
    return {**found, **{package: version(package) for package in PACKAGES if package in there}}


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def times_table(results: list[Result]) -> str:
    """What each variant adds to a request, by CPU and wall time; the ratios are of the fastest tenth's CPU time."""
    columns = (
        "bare",
        "added (quartiles)",
        "added, wall",
        "added at best (quartiles)",
        "of bare",
        "no-ops",
        "of incumbent",
    )
    lines = [f"| client | variant | {' | '.join(columns)} |", f"|---|---|{'--:|' * len(columns)}"]
    for result in results:
        cpu, at_best = result.added["cpu"], result.added_at_best["cpu"]
        best = at_best.median
        noop, incumbent = _added(results, result, NOOP), _added(results, result, INCUMBENT)
        cells = [
            result.row.client,
            result.row.name,
            _micro(result.bare["cpu"].median),
            f"{_micro(cpu.median)} ({_micro(cpu.low)} … {_micro(cpu.high)})",
            _micro(result.added["wall"].median),
            f"{_micro(best)} ({_micro(at_best.low)} … {_micro(at_best.high)})",
            f"{100 * best / result.bare['cpu'].median:.1f} %",
            f"{best / noop:.2f}" if noop else "",
            f"1/{incumbent / best:.0f}" if incumbent and best > 0 else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def instructions_table(counts: list[Instructions]) -> str:
    """What each variant adds to the instructions of a request."""
    lines = ["| variant | bare | added | of bare | no-ops |", "|---|--:|--:|--:|--:|"]
    noop = next((count.added for count in counts if count.row.name == NOOP), None)
    for count in counts:
        ratio = f"{count.added / noop:.2f}" if noop else ""
        share = f"{100 * count.added / count.bare:.1f} %"
        lines.append(f"| {count.row.name} | {count.bare:,.0f} | {count.added:,.0f} | {share} | {ratio} |")
    return "\n".join(lines)


def as_json(results: list[Result], counts: list[Instructions]) -> dict[str, Any]:
    """Everything, in nanoseconds and instructions for each request."""
    return {
        "machine": machine(),
        "times": [
            {
                "client": result.row.client,
                "variant": result.row.name,
                "bare": {clock: figure._asdict() for clock, figure in result.bare.items()},
                "added": {clock: figure._asdict() for clock, figure in result.added.items()},
                "added_at_best": {clock: figure._asdict() for clock, figure in result.added_at_best.items()},
            }
            for result in results
        ],
        "instructions": [
            {"client": count.row.client, "variant": count.row.name, "bare": count.bare, "added": count.added}
            for count in counts
        ],
    }


def judged(results: list[Result], counts: list[Instructions]) -> tuple[list[str], bool]:
    """Each ratio that has a limit, in words, and whether all are kept."""
    added = {
        ("time", result.row.name): result.added_at_best["cpu"].median for result in results if _is_main(result.row)
    }
    added |= {("instructions", count.row.name): count.added for count in counts if _is_main(count.row)}
    lines, is_kept = [], True
    for name, limits in LIMITS.items():
        for other, measure, most, aim in limits:
            if (measure, name) in added and (measure, other) in added:
                ratio = added[measure, name] / added[measure, other]
                is_kept = is_kept and ratio <= most
                verdict = "" if ratio <= most else "; TOO MUCH"
                lines.append(
                    f"{name}: {ratio:.3f} of the {measure} of {other} (aim {aim:.3f}, limit {most:.3f}{verdict})"
                )
    return lines, is_kept


def _is_main(row: Row) -> bool:
    return row.client == "urllib3"


def _added(results: list[Result], beside: Result, name: str) -> float | None:
    for result in results:
        if (result.row.client, result.row.name) == (beside.row.client, name):
            return result.added_at_best["cpu"].median
    return None


def _micro(nanoseconds: float) -> str:
    return f"{nanoseconds / 1000:.1f}"


def show(text: str) -> None:
    """Says what is under way, where it does not get into the tables."""
    print(
        f"\r\033[K{text}" if sys.stderr.isatty() else text,
        end="" if sys.stderr.isatty() else "\n",
        file=sys.stderr,
        flush=True,
    )
