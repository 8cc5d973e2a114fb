"""Part ``threads``: whether a request by one of sixteen threads costs more than a request by the only one."""

from __future__ import annotations

import itertools
import os
import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from benchmarks.instructions import collected
from benchmarks.measure import Figure
from benchmarks.process import Process

from .parts import CPU, Extent, Found, Progress, Verdict, micro, serving, table

WORKER = "benchmarks.scale.workers.threads"
POOLS, THREADS = ("one", "many"), (1, 4, 16)
#: Where the threads may run. On all, Python's own lock goes from one to another, which whatever they do pays for.
PROCESSORS = ("one", "all")
#: So many make a block, by all threads together.
DEEDS = {"requests": 960, "checkouts": 9_600}
FEW = 160
#: What repeats of the same differ by, above no more at all.
MOST = 1.05


class Case(NamedTuple):
    """Threads that do the same at once."""

    kind: str
    processors: str
    pools: str
    threads: int

    def command(self, deeds: int) -> str:
        """What the worker is told."""
        return f"{self.pools} {self.threads} {self.kind} {deeds // self.threads} {self.processors}"


CASES = [Case(*case) for case in itertools.product(DEEDS, PROCESSORS, POOLS, THREADS)]


def measure(extent: Extent, progress: Progress) -> Found:
    """Pairs of blocks with the library and without, each in a process of its own, and instructions."""
    pairs: dict[Case, list[tuple[float, float]]] = {case: [] for case in CASES}
    locks: dict[Case, float] = {}
    with serving("keeping") as port:
        for generation in range(1, extent.generations + 1):
            progress(f"threads: generation {generation} of {extent.generations}")
            _generation(port, extent.rounds, random.Random(generation), pairs, locks)
        counts = _count(port, progress) if extent.can_count else {}
    return _found(pairs, locks, counts)


def _generation(
    port: str,
    rounds: int,
    dice: random.Random,
    pairs: dict[Case, list[tuple[float, float]]],
    locks: dict[Case, float],
) -> None:
    seeds = [dice.randrange(1, 2**32) for _ in range(2)]
    with (
        Process(WORKER, "on", port, seed=seeds[0], layout=str(seeds[0])) as on,
        Process(WORKER, "off", port, seed=seeds[1], layout=str(seeds[1])) as off,
    ):
        for worker in (on, off):
            worker.hear()
            for case in CASES:
                worker.ask(f"block {case.command(FEW)}")
        for number in range(rounds):
            for case in dice.sample(CASES, len(CASES)):
                command = f"block {case.command(DEEDS[case.kind])}"
                if number % 2:
                    with_it, without = on.ask(command), off.ask(command)
                else:
                    without, with_it = off.ask(command), on.ask(command)
                pairs[case].append((without[CPU], with_it[CPU]))
        for case in CASES:
            if case.kind == "checkouts" and case.processors == "all":
                asked = on.ask(f"locks {case.pools} {case.threads} {2 * DEEDS[case.kind] // case.threads}")
                locks[case] = max(locks.get(case, 0), asked["asked_of_thousand"])


def _count(port: str, progress: Progress) -> dict[Case, tuple[float, float]]:
    """Instructions of a checkout and return, bare and added."""
    cases = [
        case for case in CASES if case.kind == "checkouts" and case.processors == "all" and case.threads in (1, 16)
    ]
    more = DEEDS["checkouts"] // 3

    def one(job: tuple[Case, str, int]) -> int:
        case, switch, deeds = job
        progress(f"threads: instructions, {case.threads} on {case.pools}, {switch}")
        return collected(lambda prefix: Process(WORKER, switch, port, prefix=prefix), f"make {case.command(deeds)}")

    jobs = [(case, switch, deeds) for case in cases for switch in ("off", "on") for deeds in (FEW, FEW + more)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        counts = dict(zip(jobs, pool.map(one, jobs), strict=True))
    each = {
        (case, switch): (counts[case, switch, FEW + more] - counts[case, switch, FEW]) / more
        for case in cases
        for switch in ("off", "on")
    }
    return {case: (each[case, "off"], each[case, "on"] - each[case, "off"]) for case in cases}


def _found(
    pairs: dict[Case, list[tuple[float, float]]], locks: dict[Case, float], counts: dict[Case, tuple[float, float]]
) -> Found:
    added = {case: Figure.of([with_it - without for without, with_it in of]) for case, of in pairs.items()}
    rows, counted, verdicts = [], [], []
    data: dict[str, Any] = {"times": [], "instructions": [], "locks": []}
    for case, figure in added.items():
        single = case._replace(threads=1)
        bare = Figure.of([without for without, _ in pairs[case]])
        bare_of_single = Figure.of([without for without, _ in pairs[single]])
        times = figure.median / added[single].median
        of_bare = figure.median / bare.median
        without, more = counts.get(case, (None, None))
        rows.append(
            (
                case.kind,
                case.processors,
                case.pools,
                str(case.threads),
                f"{bare.median / 1000:,.1f}",
                micro(figure),
                f"{of_bare:.2f}",
                f"{times:.2f}",
            )
        )
        if case in locks:
            counted.append(
                (
                    case.pools,
                    str(case.threads),
                    f"{without:,.0f}" if without is not None else "",
                    f"{more:,.0f}" if more is not None else "",
                    f"{more / counts[single][1]:.2f}" if more is not None else "",
                    f"{locks[case]:.2f}",
                )
            )
        data["times"].append({**case._asdict(), "bare": bare._asdict(), "added": figure._asdict()})
        if case.threads == 16:
            name = f"{case.kind} by 16 threads on {case.pools}, of those by one"
            if case.processors == "one":
                verdicts.append(Verdict(f"{name}, time added", times, MOST))
            else:
                as_part = of_bare / (added[single].median / bare_of_single.median)
                verdicts.append(Verdict(f"{name}, all processors, time added as a part of the bare one", as_part, MOST))
            if more is not None:
                verdicts.append(Verdict(f"{name}, instructions added", more / counts[single][1], MOST, 1.5))
    for case, (without, more) in counts.items():
        data["instructions"].append({**case._asdict(), "bare": without, "added": more})
    for case, asked in locks.items():
        data["locks"].append({**case._asdict(), "asked_of_thousand": asked})
        # One in 256 empties the buffer of samples; of the threads that find it full at once each one tries.
        verdicts.append(
            Verdict(f"locks asked for in 1,000 checkouts, {case.threads} on {case.pools}", asked, 1000 / 256 + 0.1)
        )
    heads = (
        "",
        "processors",
        "pools",
        "threads",
        "bare µs",
        "added µs (quartiles)",
        "of bare",
        "of one thread",
    )
    heads_of_counted = "pools", "threads", "bare instructions", "added", "of one thread", "locks in 1,000"
    text = f"{table(heads, rows, 3)}\n\nOf a checkout and return:\n\n{table(heads_of_counted, counted, 1)}"
    return Found(text, verdicts, data)
