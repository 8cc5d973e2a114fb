"""One variant in a process of its own, told by lines on stdin to measure blocks of requests with and without it.

``pair`` answers with a block of each kind, in a line of JSON. ``off N`` and ``on N`` make N requests of one kind, and
end the process there and then: what comes after the requests is not to be counted with them.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from opentelemetry import trace

from .seams import seam_rows
from .variants import Row, Variant, client_of, rows

#: Before a block is measured: what is adopted, made or imported at first is no part of it.
WARM_UP = 20


class MiscountError(Exception):
    """A variant has not told of as many requests as were made: its figures would be of no worth."""


class Bench:
    """Measures blocks of requests to one URL.

    Args:
        get: makes a request.
        variant: is switched on for some of the blocks.
        requests: so many make a block.
    """

    def __init__(self, get: Callable[[str], object], url: str, variant: Variant, requests: int) -> None:
        self._get, self._url, self._variant, self._requests = get, url, variant, requests
        self._tracer = trace.get_tracer("benchmarks")

    def make(self, requests: int) -> None:
        """Requests, and no more."""
        get, url = self._get, self._url
        with self._tracer.start_as_current_span("parent"):
            for _ in range(requests):
                get(url)

    def _block(self, *, is_on: bool) -> dict[str, float]:
        """CPU and wall time of one request, in nanoseconds.

        Raises:
            MiscountError: the variant told of another number of requests.
        """
        variant, get, url, requests = self._variant, self._get, self._url, self._requests
        if is_on:
            variant.turn_on()
        try:
            with self._tracer.start_as_current_span("parent"):
                for _ in range(WARM_UP):
                    get(url)
                before = variant.told()
                gc.collect()
                wall, cpu = time.perf_counter_ns(), time.process_time_ns()
                for _ in range(requests):
                    get(url)
                cpu, wall = time.process_time_ns() - cpu, time.perf_counter_ns() - wall
                after = variant.told()
        finally:
            if is_on:
                variant.turn_off()
        if is_on and before is not None and after is not None and after - before != requests:
            raise MiscountError(f"{after - before} of {requests} requests were told of")
        return {"cpu": cpu / requests, "wall": wall / requests}

    def pair(self, *, is_on_first: bool) -> dict[str, dict[str, float]]:
        """A block without the variant and one with it."""
        found = {}
        for is_on in (is_on_first, not is_on_first):
            found["on" if is_on else "off"] = self._block(is_on=is_on)
        return found


def find_row(client: str, name: str) -> Row:
    """The line of a table, by its client and name."""
    return next(row for row in [*rows(), *seam_rows()] if (row.client, row.name) == (client, name))


def main(client: str, name: str, url: str) -> None:
    """Answers the lines on stdin."""
    row = find_row(client, name)
    variant = row.make()
    if row.has_sdk:
        variant.set_up_sdk()
    pairs = 0
    with client_of(client) as get:
        bench = Bench(get, url, variant, row.requests)
        print(json.dumps("ready"), flush=True)
        for line in sys.stdin:
            answer: Any
            match line.split():
                case ["pair"]:
                    pairs += 1
                    answer = bench.pair(is_on_first=bool(pairs % 2))
                case [("on" | "off") as kind, requests]:
                    if kind == "on":
                        variant.turn_on()
                    gc.disable()  # a collection in one run and none in the other would be all the difference
                    bench.make(WARM_UP + int(requests))
                    os._exit(0)
                case _:
                    raise ValueError(f"unknown command {line!r}: pair, on N or off N")
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
