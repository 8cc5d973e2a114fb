"""Part ``startup``: what it takes to import the library and to install it, beside OpenTelemetry's instrumentations."""

from __future__ import annotations

import os
import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.instructions import collected
from benchmarks.measure import Figure
from benchmarks.process import Process

from .parts import CPU, WALL, Extent, Found, Progress, Verdict, table
from .workers.startup import APPLICATION, NONE, NOTHING, OURS, REQUESTS, URLLIB3

WORKER = "benchmarks.scale.workers.startup"
NAMES = {OURS: "pool_telemetry", URLLIB3: "opentelemetry-instrumentation-urllib3", REQUESTS: "…-requests"}
THERE = {NOTHING: "nothing", APPLICATION: "requests and OpenTelemetry's SDK, set up"}
MOST = 0.5


def measure(extent: Extent, progress: Progress) -> Found:
    """Fresh processes, one after the other."""
    kinds = [(name, there) for name in NAMES for there in THERE]
    took: dict[tuple[str, str], list[dict[str, float]]] = {kind: [] for kind in kinds}
    for number in range(extent.generations * extent.rounds // 2 + 1):
        progress(f"startup: round {number}")
        for name, there in random.Random(number).sample(kinds, len(kinds)):
            with Process(WORKER, name, there, seed=number) as worker:
                worker.hear()
                each = worker.ask("block")
            if number:  # the first finds no bytecode, maybe
                took[name, there].append(each)
    counts = _count(progress) if extent.can_count else {}
    return _found(took, counts)


def _count(progress: Progress) -> dict[tuple[str, str], int]:
    jobs = [(name, there) for name in (NONE, *NAMES) for there in THERE]

    def one(job: tuple[str, str]) -> int:
        progress(f"startup: instructions, {', '.join(job)}")
        return collected(lambda prefix: Process(WORKER, *job, prefix=prefix), "make")

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        counts = dict(zip(jobs, pool.map(one, jobs), strict=True))
    return {(name, there): counts[name, there] - counts[NONE, there] for name in NAMES for there in THERE}


def _found(took: dict[tuple[str, str], list[dict[str, float]]], counts: dict[tuple[str, str], int]) -> Found:
    rows, verdicts = [], []
    data: list[dict[str, Any]] = []
    for (name, there), of in took.items():
        figures = {clock: Figure.of([each[clock] for each in of]) for clock in (CPU, WALL)}
        incumbent = Figure.of([each[CPU] for each in took[URLLIB3, there]])
        share = figures[CPU].median / incumbent.median
        count = counts.get((name, there))
        counted = count / counts[URLLIB3, there] if count is not None else None
        rows.append(
            (
                THERE[there],
                NAMES[name],
                *(
                    f"{each.median / 1e6:.1f} ({each.low / 1e6:.1f} … {each.high / 1e6:.1f})"
                    for each in figures.values()
                ),
                f"{share:.2f}",
                f"{count / 1e6:,.1f}" if count is not None else "",
                f"{counted:.2f}" if counted is not None else "",
            )
        )
        data.append(
            {
                "there": there,
                "name": name,
                "took": {clock: each._asdict() for clock, each in figures.items()},
                "instructions": count,
            }
        )
        if name == OURS:
            what = f"start-up where {THERE[there]} is there, of the incumbent's"
            verdicts.append(Verdict(f"{what} CPU time", share, MOST))
            if counted is not None:
                verdicts.append(Verdict(f"{what} instructions", counted, MOST, 2 * MOST))
    heads = (
        "there before",
        "imported and switched on",
        "CPU ms (quartiles)",
        "wall ms (quartiles)",
        "CPU, of the incumbent",
        "million instructions",
        "of the incumbent",
    )
    return Found(table(heads, sorted(rows), 2), verdicts, data)
