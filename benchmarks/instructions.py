"""Counts the instructions of a request under valgrind: a figure without noise, so that a small change shows."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import NamedTuple

from .measure import Worker, server
from .process import Process
from .rows import Row

#: Of a run with so many requests and one with a whole block more the difference is taken: start-up does not count.
FEW = 40


class Instructions(NamedTuple):
    """Instructions for each request."""

    row: Row
    bare: float
    added: float


def why_not() -> str | None:
    """Why instructions cannot be counted here, ``None`` if they can."""
    return None if shutil.which("valgrind") else "valgrind is not installed"


def count(rows: list[Row], seeds: int, progress: Callable[[str], None]) -> list[Instructions]:
    """Runs each row with its variant, and once for all of a kind without; takes some 10 seconds a run.

    Args:
        seeds: so many times with other hashes, of which the median is given. What remains, up to a percent of the bare
            request, is due to where Python's cache of methods has its collisions.
    """
    bare = {(row.client, row.has_sdk): row for row in rows if row.requests == min(each.requests for each in rows)}
    kinds = [*((row, "off") for row in bare.values()), *((row, "on") for row in rows)]
    jobs = [_Job(row, kind, seed) for row, kind in kinds for seed in range(1, seeds + 1)]
    with server() as url, ThreadPoolExecutor(os.cpu_count()) as pool:

        def one(job: _Job) -> float:
            progress(f"{job.row.name}, {job.kind}, seed {job.seed}")
            return (_run(job, FEW + job.row.requests, url) - _run(job, FEW, url)) / job.row.requests

        counts = dict(zip(jobs, pool.map(one, jobs), strict=True))

    def each_of(row: Row, kind: str) -> float:
        return median(counts[_Job(row, kind, seed)] for seed in range(1, seeds + 1))

    found = []
    for row in rows:
        without = each_of(bare[row.client, row.has_sdk], "off")
        found.append(Instructions(row, without, each_of(row, "on") - without))
    return found


class _Job(NamedTuple):
    row: Row
    kind: str
    seed: int


def _run(job: _Job, requests: int, url: str) -> int:
    def start(prefix: tuple[str, ...]) -> Process:
        return Worker(job.row, url, is_on=job.kind == "on", prefix=prefix, seed=job.seed)

    return collected(start, f"make {requests}")


def collected(start: Callable[[tuple[str, ...]], Process], command: str) -> int:
    """Instructions of a process from its start to its end.

    Args:
        start: starts it, by the prefix that it is given.
        command: the only one, with which the process ends.
    """
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        with start(
            ("valgrind", "--tool=callgrind", f"--log-file={log}", f"--callgrind-out-file={folder}/out")
        ) as process:
            process.hear()
            process.tell(command)
        found = re.search(r"Collected : (\d+)", log.read_text())
        assert found is not None, log.read_text()
        return int(found[1])
