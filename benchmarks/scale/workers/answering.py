"""What all workers have in common: they answer lines on stdin by lines of JSON, and look at their clocks."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.variants import Ours


class MiscountError(Exception):
    """What was told is not what was done: the figures would be of no worth."""


def answer(**commands: Callable[..., Any]) -> None:
    """Answers until stdin ends; arguments are words.

    What is called ``make`` ends the process there and then: what comes after it is not to be counted with it.
    """
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        name, *words = line.split()
        said = commands[name](*words)
        if name == "make":
            os._exit(0)
        print(json.dumps(said), flush=True)


class Clocks:
    """CPU and wall time since they were started, in nanoseconds."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter_ns(), time.process_time_ns()

    def read(self, parts: int = 1) -> dict[str, float]:
        """Of each of so many parts."""
        cpu, wall = time.process_time_ns(), time.perf_counter_ns()
        return {"cpu": (cpu - self._cpu) / parts, "wall": (wall - self._wall) / parts}


def set_up(switch: str) -> Ours:
    """The library with spans and metrics and OpenTelemetry's SDK, or the SDK alone."""
    from benchmarks.variants import Ours  # not at the top: who measures an import must not have made it

    variant = Ours()
    variant.set_up_sdk()
    if switch == "on":
        variant.turn_on()
    return variant


def check(what: str, told: float, done: float) -> None:
    """Hold what was told against what was done.

    Raises:
        MiscountError: they are not the same.
    """
    if told != done:
        raise MiscountError(f"{what}: {told} were told of, {done} were made")
