"""Part ``memory``: what the books hold of an open connection, and what is left of those that were closed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.process import Process

from .parts import Extent, Found, Progress, Verdict, serving, table

WORKER = "benchmarks.scale.workers.memory"
#: Uses of a connection, each in a span of its own, and in words.
USES = {0: "opened, without a span", 1: "opened and used, in one span", 3: "opened and used, in three spans"}
METERS = ("tracemalloc", "rss")
MOST_BYTES = 1024.0
#: Of Python's allocator, of the process: a counter of durations is made when the first of its magnitude comes.
MOST_BLOCKS, MOST_RSS = 1_000.0, 2_000_000.0


def measure(extent: Extent, progress: Progress) -> Found:
    """Processes with the library and without, which open as many connections."""
    verdicts, text = [], []
    data: dict[str, Any] = {}
    with serving("keeping") as port:
        weights = {}
        for uses in USES:
            for meter in METERS:
                progress(f"memory: {extent.weighed} connections, by {meter}")
                command = f"weigh {extent.weighed} {uses} {meter}"
                off, on = (_ask(switch, port, command) for switch in ("off", "on"))
                weights[uses, meter] = off, on - off
    # Beside each other: here nothing is timed.
    with serving("keeping") as keeping, serving("dropping") as dropping, ThreadPoolExecutor() as pool:
        later = [
            pool.submit(_left, what, number, port, progress)
            for what, number, port in (("turns", extent.turned, keeping), ("churn", extent.churned, dropping))
        ]
        turned, churned = (each.result() for each in later)

    rows: list[tuple[str, ...]] = []
    for (uses, meter), (off, more) in weights.items():
        rows.append((USES[uses], meter, f"{off:,.0f}", f"{more:,.0f}"))
        # RSS grows by pages and arenas.
        limit = 1.75 * MOST_BYTES if meter == "tracemalloc" else None
        verdicts.append(Verdict(f"bytes of a connection that was {USES[uses]}, by {meter}", more, MOST_BYTES, limit))
    text.append(table(("a connection that was …", "by", "bare bytes", "added"), rows, 2))
    data["connections"] = [
        {"uses": uses, "meter": meter, "bare": off, "added": more} for (uses, meter), (off, more) in weights.items()
    ]
    rows = []
    for what, number, left in (
        ("connections opened, used, dropped and closed", extent.churned, churned),
        ("checkouts and returns", extent.turned, turned),
    ):
        for switch, of in left.items():
            rows.append((f"{number:,} {what}", switch, *(f"{of[name]:+,.0f}" for name in ("ours", "blocks", "bytes"))))
        name = f"left of {number:,} {what}"
        verdicts.append(Verdict(f"objects of ours {name}", left["on"]["ours"], 0, 0))
        verdicts.append(Verdict(f"blocks {name}", left["on"]["blocks"], MOST_BLOCKS, 5 * MOST_BLOCKS))
        verdicts.append(Verdict(f"bytes of the process {name}", left["on"]["bytes"], MOST_RSS))
    text.append(table(("after …", "library", "objects of ours", "blocks", "bytes of the process"), rows, 2))
    data["left"] = {
        "connections": {"number": extent.churned, **churned},
        "checkouts": {"number": extent.turned, **turned},
    }
    return Found("\n\n".join(text), verdicts, data)


def _left(command: str, number: int, port: str, progress: Progress) -> dict[str, Any]:
    left = {}
    for switch in ("off", "on"):
        # Without the library only to see what Python and the SDK keep: a tenth will do.
        many = number // 10 if switch == "off" else number
        progress(f"memory: {command} {many:,}, {switch}")
        left[switch] = _ask(switch, port, f"{command} {many}")
    return left


def _ask(switch: str, port: str, command: str) -> Any:
    with Process(WORKER, switch, port) as worker:
        worker.hear()
        return worker.ask(command)
