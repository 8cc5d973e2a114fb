"""Part ``drops``: what a dropped connection costs with its spans, beside the reconnecting that it makes necessary.

The same spans are made by hand, too: of what is added, that much is OpenTelemetry's SDK's.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
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
OFF, BY_HAND, ON = SWITCHES = "off", "by-hand", "on"
#: Of what reconnecting takes.
MOST = 0.1

Times = dict[str, float]
#: Blocks with each switch, one after the other.
Turn = dict[str, Times]


def measure(extent: Extent, progress: Progress) -> Found:
    """Blocks with the library, without, and with spans by hand; one of bare set-ups beside them; and instructions."""
    turns: dict[str, list[Turn]] = {name: [] for name in NAMES}
    reconnects: list[Times] = []
    with _certificates() as (certificate, authority), serving("dropping", certificate) as port:
        for generation in range(1, extent.generations + 1):
            progress(f"drops: generation {generation} of {extent.generations}")
            _generation(port, authority, extent.rounds, random.Random(generation), turns, reconnects)
        counts = _count(port, authority, progress) if extent.can_count else {}
    return _found(turns, reconnects, counts)


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
    turns: dict[str, list[Turn]],
    reconnects: list[Times],
) -> None:
    with ExitStack() as stack:
        workers = {}
        for switch in SWITCHES:
            seed = dice.randrange(1, 2**32)
            worker = Process(WORKER, switch, port, authority, seed=seed, layout=str(seed))
            workers[switch] = stack.enter_context(worker)
        for worker in workers.values():
            worker.hear()
            for name in (*NAMES, RECONNECT):
                worker.ask(f"block {name} {BLOCK}")
        for _ in range(rounds):
            for name in dice.sample(list(NAMES), len(NAMES)):
                order = dice.sample(SWITCHES, len(SWITCHES))
                turns[name].append({switch: workers[switch].ask(f"block {name} {BLOCK}") for switch in order})
                reconnects.append(workers[OFF].ask(f"block {RECONNECT} {BLOCK}"))


def _count(port: str, authority: str, progress: Progress) -> dict[tuple[str, str], float]:
    """Instructions of a request, or of a set-up, by what it is and what makes its spans."""
    kinds = [(RECONNECT, OFF), *((name, switch) for name in NAMES for switch in SWITCHES)]
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


def _found(turns: dict[str, list[Turn]], reconnects: list[Times], counts: dict[tuple[str, str], float]) -> Found:
    base = {clock: Figure.of([each[clock] for each in reconnects]) for clock in (CPU, WALL)}
    rows = [("reconnecting, bare", "", micro(base[CPU]), "", "", "", "", micro(base[WALL]), "")]
    data: dict[str, Any] = {"reconnecting": {clock: each._asdict() for clock, each in base.items()}, "drops": []}
    verdicts = []
    for name, title in NAMES.items():
        drops = turns[name][0][ON]["drops"]
        whole, wall, of_sdk, of_ours = (
            Figure.of([(turn[more][clock] - turn[less][clock]) / drops for turn in turns[name]])
            for more, less, clock in ((ON, OFF, CPU), (ON, OFF, WALL), (BY_HAND, OFF, CPU), (ON, BY_HAND, CPU))
        )
        shares = [each.median / base[CPU].median for each in (whole, of_ours)] + [wall.median / base[WALL].median]
        rows.append(
            (
                title,
                f"{drops:.2f}",
                micro(whole),
                _percent(shares[0]),
                micro(of_sdk),
                micro(of_ours),
                _percent(shares[1]),
                micro(wall),
                _percent(shares[2]),
            )
        )
        data["drops"].append(
            {
                "server": title,
                "drops": drops,
                "added": {CPU: whole._asdict(), WALL: wall._asdict()},
                "of_sdk": of_sdk._asdict(),
                "of_ours": of_ours._asdict(),
            }
        )
        for what, share in zip(("CPU time added", "CPU time of ours", "wall time added"), shares, strict=True):
            verdicts.append(Verdict(f"{title}: {what}, of reconnecting", share, MOST))
    heads = ("a server that …", "drops a request", "CPU µs added by a drop", "of reconnecting", "of it the SDK's")
    text = table((*heads, "ours", "of reconnecting", "wall µs", "of reconnecting"), rows, 1)
    if counts:
        text += "\n\n" + _table_of_instructions({name: turns[name][0][ON]["drops"] for name in NAMES}, counts, verdicts)
        data["instructions"] = [
            {"what": what, "switch": switch, "each": each} for (what, switch), each in counts.items()
        ]
    return Found(text, verdicts, data)


def _table_of_instructions(
    drops: dict[str, float], counts: dict[tuple[str, str], float], verdicts: list[Verdict]
) -> str:
    """Thousands of instructions of each drop."""
    bare = counts[RECONNECT, OFF]
    lines = [("reconnecting, bare", f"{bare / 1000:,.0f}", "", "", "", "")]
    for name, title in NAMES.items():
        of_sdk, of_ours = (
            (counts[name, more] - counts[name, less]) / drops[name] for more, less in ((BY_HAND, OFF), (ON, BY_HAND))
        )
        whole = of_sdk + of_ours
        lines.append(
            (
                title,
                f"{whole / 1000:,.0f}",
                _percent(whole / bare),
                f"{of_sdk / 1000:,.0f}",
                f"{of_ours / 1000:,.0f}",
                _percent(of_ours / bare),
            )
        )
        verdicts.append(Verdict(f"{title}: instructions added, of reconnecting", whole / bare, MOST, 4 * MOST))
        verdicts.append(Verdict(f"{title}: instructions of ours, of reconnecting", of_ours / bare, MOST, 2 * MOST))
    heads = ("a server that …", "thousand instructions added by a drop", "of reconnecting", "of it the SDK's")
    return table((*heads, "ours", "of reconnecting"), lines, 1)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
