"""One process that makes requests, with a variant switched on in it or off, as it is told by lines on stdin.

``block`` measures a block of requests, and answers by a line of JSON. ``make N`` makes N requests, and ends the process
there and then: what comes after them is not to be counted with them.

A process stays as it is: Python adapts its code to the classes that it meets, and does so ever more reluctantly where
they change under it.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import urllib3
from opentelemetry import trace

from .rows import Row, rows
from .seams import seam_rows

#: Before anything is measured: what is made or imported at first, and what Python adapts to.
WARM_UP = 500


class MiscountError(Exception):
    """A variant has not told of as many requests as were made: its figures would be of no worth."""


class Bench:
    """Makes requests to one URL, under a span that is recorded.

    Args:
        get: makes a request.
        told: how many requests have been told of, or ``None``.
    """

    def __init__(self, get: Callable[[str], object], url: str, told: Callable[[], float | None]) -> None:
        self._get, self._url, self._told = get, url, told
        self._tracer = trace.get_tracer("benchmarks")

    def make(self, requests: int) -> None:
        """Requests, and no more."""
        get, url = self._get, self._url
        with self._tracer.start_as_current_span("parent"):
            for _ in range(requests):
                get(url)

    def block(self, requests: int) -> dict[str, float]:
        """CPU and wall time of one request, in nanoseconds.

        Raises:
            MiscountError: another number of requests was told of.
        """
        get, url = self._get, self._url
        before = self._told()
        with self._tracer.start_as_current_span("parent"):
            get(url)
            gc.collect()
            wall, cpu = time.perf_counter_ns(), time.process_time_ns()
            for _ in range(requests):
                get(url)
            cpu, wall = time.process_time_ns() - cpu, time.perf_counter_ns() - wall
            after = self._told()
        if before is not None and after is not None and after - before != requests + 1:
            raise MiscountError(f"{after - before} of {requests + 1} requests were told of")
        return {"cpu": cpu / requests, "wall": wall / requests}


@contextmanager
def client_of(name: str) -> Iterator[Callable[[str], object]]:
    """What makes a GET request, by the client's name: ``urllib3`` or ``requests``."""
    if name == "urllib3":
        with urllib3.PoolManager() as manager:
            yield lambda url: manager.request("GET", url)
    else:
        import requests

        with requests.Session() as session:
            yield session.get


def find_row(client: str, name: str) -> Row:
    """The line of a table, by its client and name."""
    return next(row for row in [*rows(), *seam_rows()] if (row.client, row.name) == (client, name))


def main(client: str, name: str, state: str, url: str) -> None:
    """Answers the lines on stdin."""
    row = find_row(client, name)
    variant = row.make()
    if row.has_sdk:
        variant.set_up_sdk()
    if state == "on":
        variant.turn_on()
    with client_of(client) as get:
        # As timeit has it: a collection of everything would be half of a block, or in one run and not in the other.
        gc.disable()
        bench = Bench(get, url, variant.told if state == "on" else lambda: None)
        print(json.dumps("ready"), flush=True)
        for number, line in enumerate(sys.stdin):
            match line.split():
                case ["block"]:
                    if number == 0:
                        bench.make(WARM_UP)
                        gc.freeze()
                    print(json.dumps(bench.block(row.requests)), flush=True)
                case ["make", requests]:
                    bench.make(int(requests))
                    os._exit(0)
                case _:
                    raise ValueError(f"unknown command {line!r}: block, or make N")


if __name__ == "__main__":
    main(*sys.argv[1:])
