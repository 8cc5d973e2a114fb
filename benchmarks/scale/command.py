"""``python -m benchmarks scale [PART …]``: runs the parts, and prints what the page in ``docs/`` has."""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
from pathlib import Path
from typing import Any

from benchmarks.report import machine, show

from . import drops, looks, memory, startup, threads
from .parts import FULL, SHORT

PARTS = {
    "threads": (threads, "Threads"),
    "drops": (drops, "The drop path"),
    "looks": (looks, "Collection and snapshot()"),
    "memory": (memory, "Memory"),
    "startup": (startup, "Start-up"),
}


def main(arguments: list[str]) -> int:
    """Measures, prints Markdown, and tells whether a limit was passed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks scale", description=__doc__)
    parser.add_argument("part", nargs="*", help=f"one or more of {', '.join(PARTS)}; all unless told")
    parser.add_argument("--short", action="store_true", help="few rounds, and smaller numbers of everything")
    parser.add_argument("--no-instructions", action="store_true", help="do not count instructions under valgrind")
    parser.add_argument("--check", action="store_true", help="fail where a limit is passed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    options = parser.parse_args(arguments)
    if unknown := set(options.part) - set(PARTS):
        parser.error(f"unknown part {', '.join(sorted(unknown))}: choose from {', '.join(PARTS)}")

    # Ten thousand sockets, and as many of the server; it goes on to all processes that are started.
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    extent = (SHORT if options.short else FULL)._replace(counts_instructions=not options.no_instructions)
    data: dict[str, Any] = {"machine": _machine(), "extent": extent._asdict()}
    print(f"On: {', '.join(f'{name} {each}' for name, each in data['machine'].items())}.\n", flush=True)
    is_kept = True
    for name in options.part or PARTS:
        module, title = PARTS[name]
        found = module.measure(extent, show)
        show("")
        print(f"## {title}\n\n{found.text}\n\n" + "\n".join(f"- {each}" for each in found.verdicts) + "\n", flush=True)
        data[name] = {"found": found.data, "verdicts": [each._asdict() for each in found.verdicts]}
        is_kept = is_kept and all(each.is_kept for each in found.verdicts)
        if options.json:
            options.json.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    return 1 if options.check and not is_kept else 0


def _machine() -> dict[str, Any]:
    return {
        **machine(),
        "processors": os.cpu_count(),
        "kernel": platform.release().partition("-")[0],
        "load": round(os.getloadavg()[0], 1),
    }
