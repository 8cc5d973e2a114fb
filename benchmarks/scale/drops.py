"""Part ``drops``: what a dropped connection costs with its spans, beside the reconnecting that it makes necessary."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trustme

from benchmarks.instructions import collected
from benchmarks.measure import Figure
from benchmarks.process import Process

from .parts import CPU, WALL, Extent, Found, Progress, Verdict, micro, serving, table

WORKER = "benchmarks.scale.workers.drops"
NAMES = {
    "after": "closes after every response",
    "second": "lets every second connection idle out",
    "race": "every reuse loses the race",
}
BLOCK = 32
FEW = 8
RECONNECT = "reconnect"
#: Of what reconnecting takes.
MOST = 0.1

Times = dict[str, float]


def measure(extent: Extent, progress: Progress) -> Found:
    """Pairs of blocks with the library and without, a block of bare set-ups beside each, and instructions."""
    pairs: dict[str, list[tuple[Times, Times]]] = {name: [] for name in NAMES}
    reconnects: list[Times] = []
    with _certificates() as (certificate, authority), serving("dropping", certificate) as port:
        for generation in range(1, extent.generations + 1):
            progress(f"drops: generation {generation} of {extent.generations}")
            _generation(port, authority, extent.rounds, random.Random(generation), pairs, reconnects)
        counts = _count(port, authority, progress) if extent.can_count else {}
    return _found(pairs, reconnects, counts)


@contextmanager
def _certificates() -> Iterator[tuple[str, str]]:
    """Files: the server's key and certificate, and that of who has signed it."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    with tempfile.TemporaryDirectory() as folder:
        server, signer = Path(folder, "server.pem"), Path(folder, "authority.pem")
        server.write_bytes(issued.private_key_and_cert_chain_pem.bytes())
        signer.write_bytes(authority.cert_pem.bytes())
        yield str(server), str(signer)


def _generation(
    port: str,
    authority: str,
    rounds: int,
    dice: random.Random,
    pairs: dict[str, list[tuple[Times, Times]]],
    reconnects: list[Times],
) -> None:
    seeds = [dice.randrange(1, 2**32) for _ in range(2)]
    with (
        Process(WORKER, "on", port, authority, seed=seeds[0], layout=str(seeds[0])) as on,
        Process(WORKER, "off", port, authority, seed=seeds[1], layout=str(seeds[1])) as off,
    ):
        for worker in (on, off):
            worker.hear()
            for name in (*NAMES, RECONNECT):
                worker.ask(f"block {name} {BLOCK}")
        for number in range(rounds):
            for name in dice.sample(list(NAMES), len(NAMES)):
                command = f"block {name} {BLOCK}"
                if number % 2:
                    with_it, without = on.ask(command), off.ask(command)
                else:
                    without, with_it = off.ask(command), on.ask(command)
                pairs[name].append((without, with_it))
                reconnects.append(off.ask(f"block {RECONNECT} {BLOCK}"))


def _count(port: str, authority: str, progress: Progress) -> dict[tuple[str, str], float]:
    """Instructions of a request, or of a set-up, by what it is and whether the library is on."""
    kinds = [(RECONNECT, "off"), *((name, switch) for name in NAMES for switch in ("off", "on"))]
    jobs = [(*kind, number) for kind in kinds for number in (FEW, FEW + BLOCK)]

    def one(job: tuple[str, str, int]) -> int:
        name, switch, number = job
        progress(f"drops: instructions, {name}, {switch}")
        return collected(
            lambda prefix: Process(WORKER, switch, port, authority, prefix=prefix), f"make {name} {number}"
        )

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        counts = dict(zip(jobs, pool.map(one, jobs), strict=True))
    return {
        (name, switch): (counts[name, switch, FEW + BLOCK] - counts[name, switch, FEW]) / BLOCK
        for name, switch in kinds
    }


def _found(
    pairs: dict[str, list[tuple[Times, Times]]], reconnects: list[Times], counts: dict[tuple[str, str], float]
) -> Found:
    base = {clock: Figure.of([each[clock] for each in reconnects]) for clock in (CPU, WALL)}
    rows = [("reconnecting, bare", "", micro(base[CPU]), "", micro(base[WALL]), "")]
    data: dict[str, Any] = {"reconnecting": {clock: each._asdict() for clock, each in base.items()}, "drops": []}
    verdicts = []
    for name, title in NAMES.items():
        drops = pairs[name][0][1]["drops"]
        added = {
            clock: Figure.of([(with_it[clock] - without[clock]) / with_it["drops"] for without, with_it in pairs[name]])
            for clock in (CPU, WALL)
        }
        shares = {clock: added[clock].median / base[clock].median for clock in added}
        rows.append(
            (
                title,
                f"{drops:.2f}",
                micro(added[CPU]),
                f"{100 * shares[CPU]:.0f} %",
                micro(added[WALL]),
                f"{100 * shares[WALL]:.0f} %",
            )
        )
        data["drops"].append(
            {"server": title, "drops": drops, "added": {clock: each._asdict() for clock, each in added.items()}}
        )
        verdicts += [Verdict(f"{title}: {clock} time added, of reconnecting", shares[clock], MOST) for clock in shares]
    text = table(
        (
            "a server that …",
            "drops a request",
            "CPU µs added by a drop",
            "of reconnecting",
            "wall µs",
            "of reconnecting",
        ),
        rows,
        1,
    )
    if counts:
        whole = counts[RECONNECT, "off"]
        lines = [("reconnecting, bare", f"{whole:,.0f}", "")]
        for name, title in NAMES.items():
            more = (counts[name, "on"] - counts[name, "off"]) / pairs[name][0][1]["drops"]
            lines.append((title, f"{more:,.0f}", f"{100 * more / whole:.0f} %"))
            verdicts.append(Verdict(f"{title}: instructions added, of reconnecting", more / whole, MOST, 4 * MOST))
        text += "\n\n" + table(("a server that …", "instructions added by a drop", "of reconnecting"), lines, 1)
        data["instructions"] = [
            {"what": what, "switch": switch, "each": each} for (what, switch), each in counts.items()
        ]
    return Found(text, verdicts, data)
