"""Part ``looks``: collections and snapshots, over ten pooled sockets to ten thousand; and requests meanwhile."""

from __future__ import annotations

import random
from statistics import median
from typing import Any, NamedTuple

from benchmarks.measure import Figure
from benchmarks.process import Process

from .parts import CPU, Extent, Found, Progress, Verdict, micro, ratio, serving, table

WORKER = "benchmarks.scale.workers.looks"
BARE, NOTHING = "bare", "nothing"
OURS = ("snapshot", "collection")
PSUTIL, PSUTIL_ALL = "psutil", "psutil_all"
WAYS = (BARE, *OURS, PSUTIL, PSUTIL_ALL)
#: As many looks make a block as find so many sockets, one at the least.
SOCKETS_OF_A_BLOCK = 2_000
MOST_BARE, LEAST_OF_PSUTIL, MOST_BEND, MOST_DELAY = 5.0, 10.0, 1.25, 1.25
HEADS = (
    "sockets",
    "pools",
    "bare ns each",
    "µs (quartiles)",
    "of bare",
    "beyond the fixed part",
    "faster than psutil",
    "than psutil of all processes",
)


class Case(NamedTuple):
    """Sockets, divided among pools."""

    sockets: int
    pools: int


def measure(extent: Extent, progress: Progress) -> Found:
    """Blocks of looks of each kind in turns, in one process for each number of sockets."""
    cases = [Case(0, 1), *(Case(sockets, 1) for sockets in extent.sockets), Case(extent.sockets[-1], 100)]
    blocks: dict[Case, list[dict[str, float]]] = {case: [] for case in cases}
    meanwhile: list[dict[str, Any]] = []
    with serving("keeping") as port:
        for generation in range(1, max(2, extent.generations // 2) + 1):
            for case in cases:
                progress(f"looks: generation {generation}, {case.sockets} sockets")
                with Process(WORKER, port, *map(str, case), seed=generation, layout=str(generation)) as worker:
                    worker.hear()
                    blocks[case] += _rounds(worker, case, extent.rounds, random.Random(generation))
                    if case == cases[-2]:
                        progress(f"looks: generation {generation}, requests meanwhile")
                        meanwhile += [
                            {"way": way, **worker.ask(f"meanwhile {way} {extent.seconds}")}
                            for way in (NOTHING, BARE, *OURS)
                        ]
    return _found(blocks, meanwhile)


def _rounds(worker: Process, case: Case, rounds: int, dice: random.Random) -> list[dict[str, float]]:
    """CPU nanoseconds of a look of each kind, in each round."""
    times = max(1, SOCKETS_OF_A_BLOCK // max(case.sockets, 20))
    ways = [way for way in WAYS if case.sockets or way != BARE]
    found = []
    for number in range(rounds + 1):
        took = {
            way: worker.ask(f"look {way} {1 if PSUTIL in way else times}")[CPU] for way in dice.sample(ways, len(ways))
        }
        if number:  # the first warms up
            found.append(took)
    return found


def _found(blocks: dict[Case, list[dict[str, float]]], meanwhile: list[dict[str, Any]]) -> Found:
    took = {case: {way: Figure.of([each[way] for each in of]) for way in of[0]} for case, of in blocks.items()}
    (empty, *cases), verdicts = list(took), []
    rows: dict[str, list[tuple[str, ...]]] = {way: [] for way in OURS}
    for case in cases:
        of = blocks[case]
        bare = took[case][BARE].median
        case_and_bare = f"{case.sockets:,}", str(case.pools), f"{bare / case.sockets:,.0f}"
        for way in OURS:
            share = Figure.of([each[way] / each[BARE] for each in of])
            beyond = (took[case][way].median - took[empty][way].median) / bare
            faster, than_all = (took[case][each].median / took[case][way].median for each in (PSUTIL, PSUTIL_ALL))
            ratios = ratio(share), f"{beyond:.2f}", f"{faster:.1f}", f"{than_all:.1f}"
            rows[way].append((*case_and_bare, micro(took[case][way]), *ratios))
            name = f"{way} of {case.sockets:,} sockets in {case.pools} pools"
            # The limits leave room for Pythons that are slower than the newest.
            verdicts.append(Verdict(f"{name}, of a bare loop", share.median, MOST_BARE))
            if case.pools == 1 and case.sockets >= 1_000:
                limit = 2 * MOST_BARE
                verdicts.append(
                    Verdict(f"{name}, beyond what it takes of none, of a bare loop", beyond, MOST_BARE, limit)
                )
                verdicts.append(Verdict(f"{name}, of psutil's net_connections", 1 / faster, 1 / LEAST_OF_PSUTIL))
    singles = [case for case in cases if case.pools == 1 and case.sockets >= 1_000]
    for way in OURS:
        few, many = (
            (took[case][way].median - took[empty][way].median) / case.sockets for case in (singles[0], singles[-1])
        )
        name = f"{way}: a socket of {singles[-1].sockets:,}, of one of {singles[0].sockets:,}"
        verdicts.append(Verdict(name, many / few, MOST_BEND))
    text = "\n\n".join(
        (
            *(f"A {way}:\n\n{table(HEADS, rows[way], 0)}" for way in OURS),
            f"Without any socket: {', '.join(f'{way} {micro(took[empty][way])} µs' for way in OURS)}.",
            _table_meanwhile(meanwhile, verdicts),
        )
    )
    data = {
        "looks": [{**case._asdict(), **{way: each._asdict() for way, each in took[case].items()}} for case in took],
        "meanwhile": meanwhile,
    }
    return Found(text, verdicts, data)


def _table_meanwhile(meanwhile: list[dict[str, Any]], verdicts: list[Verdict]) -> str:
    """Milliseconds, each the median of all generations."""
    rows, p99 = [], {}
    for way in (NOTHING, BARE, *OURS):
        of = [each for each in meanwhile if each["way"] == way]
        names = ("look_ns", "median", "p99", "met_p99", "met_most")
        values = {name: median([each[name] for each in of if name in each] or [0.0]) for name in names}
        p99[way] = values["p99"]
        shown = (f"{values[name] / 1e6:.2f}" if values[name] else "" for name in names)
        requests = sum(each["requests"] for each in of)
        rows.append((way, f"{requests:,}", f"{sum(each['met_requests'] for each in of):,}", *shown))
    verdicts += [
        Verdict(f"p99 of requests during a {way} now and then, of that without", p99[way] / p99[NOTHING], MOST_DELAY)
        for way in OURS
    ]
    heads = (
        "meanwhile",
        "requests",
        "met",
        "a look takes ms",
        "median ms",
        "p99",
        "p99 of those met",
        "longest of those met",
    )
    return table(heads, rows, 1)
