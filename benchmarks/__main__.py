"""``python -m benchmarks``: what pool_telemetry costs a request that finds a live connection."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from . import instructions
from .measure import compare
from .report import as_json, instructions_table, judged, machine, show, times_table
from .rows import DEFAULT, INCUMBENT, METRICS, NOOP, RECORDED, rows
from .seams import seam_rows

ROUNDS = 8  # pairs of blocks in each generation
SHORT = (NOOP, METRICS, DEFAULT, RECORDED, INCUMBENT)


def main() -> int:
    """Measures, prints tables, and tells whether a limit was passed."""
    if sys.argv[1:2] == ["scale"]:
        from .scale import command

        return command.main(sys.argv[2:])
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "what",
        nargs="?",
        choices=("peers", "seams", "scale"),
        default="peers",
        help="peers (default): beside other instrumentations. seams: ways to see a checkout, beside each other. "
        "scale: many threads, drops, sockets; it has options of its own",
    )
    parser.add_argument("--generations", type=int, help="so often processes start anew; 24 unless told, 8 if short")
    parser.add_argument("--short", action="store_true", help="few variants and rounds")
    parser.add_argument("--no-times", action="store_true", help="count instructions only; always so of the seams")
    parser.add_argument("--no-instructions", action="store_true", help="do not count instructions under valgrind")
    parser.add_argument("--check", action="store_true", help="fail where a limit is passed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    options = parser.parse_args()
    if options.generations is not None and options.generations < 2:
        parser.error("quartiles need two generations or more")

    wanted = rows() if options.what == "peers" else seam_rows()
    if options.short:
        wanted = [row for row in wanted if row.client == "urllib3" and row.name in SHORT]
    generations = options.generations or (8 if options.short else 24)
    results, counts = [], []

    print(", ".join(f"{name} {each}" for name, each in machine().items()), end="\n\n")
    if not options.no_times and options.what == "peers":
        results = compare(wanted, generations, ROUNDS, show)
        show("")
        pairs = generations * ROUNDS
        print(f"CPU µs of a request, from {pairs} interleaved pairs of blocks without and with each variant.\n")
        print(times_table(results), end="\n\n")
    if not options.no_instructions:
        if reason := instructions.why_not():
            print(f"Instructions were not counted: {reason}.\n")
            if options.check:
                return 1
        else:
            counted = [row for row in wanted if row.client == "urllib3" and row.name != "ddtrace"]
            counts = instructions.count(counted, 1 if options.short else 3, show)
            show("")
            print("Instructions of a request in the application's process, counted by valgrind.\n")
            print(instructions_table(counts), end="\n\n")
    if options.json:
        options.json.write_text(json.dumps(as_json(results, counts), indent=2) + "\n", encoding="utf-8")
    lines, is_kept = judged(results, counts)
    print("\n".join(lines))
    return 1 if options.check and not is_kept else 0


if __name__ == "__main__":
    sys.exit(main())
