"""The page of a run: of one process as of a snapshot, of several each apart, of many not too long."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pool_telemetry import diagnose
from pool_telemetry._report import MOST_UPSTREAMS, render
from pool_telemetry._run import RUN_SCHEMA, Run, read
from pool_telemetry._run_report import MOST_PROCESSES, render_run
from pool_telemetry._snapshot import Snapshot, UpstreamSnapshot
from tests.docs.pages import BLOCKS
from tests.unit.test_report import DROPS_AT_5_S, ESCAPE, REUSED, snapshot, upstream

PROGRAM = 4711


def run(*processes: Snapshot, **changes: Any) -> Run:
    return replace(Run(RUN_SCHEMA, "0.1.0", PROGRAM, "2025-11-23T09:30:12.123+00:00", processes, 0, 0), **changes)


def process(number: int, *upstreams: UpstreamSnapshot) -> Snapshot:
    return snapshot(*upstreams, process=number)


def page(found: Run, width: int = 100) -> list[str]:
    return render_run(found, width=width, is_coloured=False).splitlines()


def test_without_any_pool_it_is_one_line() -> None:
    assert page(run()) == ["pool_telemetry has seen no connection pool in this program."]


@pytest.mark.parametrize("number", [PROGRAM, 4712])
def test_of_one_process_it_is_that_ones_page(number: int) -> None:
    found = process(number, REUSED, DROPS_AT_5_S)
    page_of_one = render(found, diagnose(found), width=80, is_coloured=True)
    assert render_run(run(found), width=80, is_coloured=True) == page_of_one


SEVERAL = """\
Connection pools of 3 processes: 36,526 checkouts, > 99 % reused, 158 dropped, 9 open, 1 finding
2025-11-23 09:30:12 UTC · pool_telemetry 0.1.0 · urllib3 2.5.0 · Python 3.12.4
1 more process had pools and ended without a word: killed, or left by os._exit().
2 more processes have not ended yet.

Process 4711, the program's own, watched for 2.2 h: 1 upstream

https://cdn.example.com:443     2 idle · pool of 10                             ████████████████████
  checkouts  12,042   reused 12,040 (> 99 %)   new 2 (< 1 %)

Process 4709, watched for 2.2 h: 1 upstream, 1 finding

https://api.example.com:443                                                     █████████████░░░░░░░
"""


def test_of_several_each_is_told_of_apart_the_programs_own_first_and_then_the_worst() -> None:
    processes = process(4800, REUSED, REUSED), process(4709, DROPS_AT_5_S), process(PROGRAM, REUSED)
    lines = page(run(*processes, silent=1, running=2))
    assert "\n".join(lines).startswith(SEVERAL)
    heads = [line.split()[1].rstrip(",") for line in lines if line.startswith("Process ")]
    assert heads == ["4711", "4709", "4800"]
    assert not any("Nothing to worry about" in line for line in lines)


def test_the_page_on_running_without_code_shows_what_is_printed() -> None:
    (shown,) = (block.text for block in BLOCKS if block.text.startswith("Connection pools of 2 processes:"))
    first, _, rest = shown.partition("  …\n")
    printed = "\n".join(page(run(process(4712, DROPS_AT_5_S), process(4713, REUSED), silent=1))) + "\n"
    assert printed.startswith(first)
    assert rest
    assert printed.endswith(rest)


def test_what_to_do_is_said_once() -> None:
    worse = replace(DROPS_AT_5_S, checkouts={**DROPS_AT_5_S.checkouts, "replaced": 1000})
    lines = page(run(process(1, DROPS_AT_5_S), process(2, worse), process(3, DROPS_AT_5_S, REUSED)))
    (finding,) = diagnose(process(1, DROPS_AT_5_S))
    text = " ".join(" ".join(lines).split())
    for advice in finding.advice:
        assert text.count(" ".join(advice.split())[:60]) == 1
    assert text.count("What to do: as in process 3.") == 2  # which is the busiest
    assert text.count("Process 3,") == 1


def test_what_to_do_is_not_referred_to_where_it_is_not_said() -> None:
    many = [replace(DROPS_AT_5_S, address=f"host{number}.example") for number in range(MOST_UPSTREAMS + 1)]
    lines = page(run(process(PROGRAM, *many), process(2, *many)))
    summed_up = [line for line in lines if line.startswith("and 1 more upstream")]
    assert len(summed_up) == 2
    hidden = next(each for each in many if not any(line.startswith(each.name) for line in lines))
    lines = page(run(process(PROGRAM, *many), process(2, hidden)))
    assert not any("What to do: as in" in line for line in lines)
    lines = page(run(process(PROGRAM, *many), process(2, hidden), process(3, hidden)))
    assert sum("What to do: as in process 2" in line for line in lines) == 1


def test_where_all_is_well_this_is_said_once() -> None:
    lines = page(run(process(1, REUSED), process(2, REUSED)))
    assert lines[-1] == "Nothing to worry about: 24,084 checkouts, no drop, no failed set-up, no leak."
    assert sum("Nothing to worry about" in line for line in lines) == 1


@pytest.mark.parametrize(("other", "flaw"), [({"new": 3}, True), ({"new": 3, "reused": 1}, False)])
def test_an_upstream_that_no_process_reuses_is_one_upstream(other: dict[str, int], flaw: bool) -> None:
    one, two = (process(number, upstream(checkouts=found)) for number, found in enumerate(({"new": 3}, other)))
    assert ("1 upstream without any reuse" in page(run(one, two))[-1]) is flaw


def test_beyond_twenty_processes_the_rest_is_summed_up_in_one_line() -> None:
    lines = page(run(*(process(number, REUSED) for number in range(1, MOST_PROCESSES + 3)), process(0, DROPS_AT_5_S)))
    heads = [line for line in lines if line.startswith("Process ")]
    assert len(heads) == MOST_PROCESSES == 20
    assert heads[0].startswith("Process 0, ")  # with a finding
    assert lines[-1] == "and 3 more processes: 36,126 checkouts, > 99 % reused, 6 open"
    few = page(run(*(process(number, REUSED) for number in range(MOST_PROCESSES))))
    assert not any(line.startswith("and ") for line in few)


@pytest.mark.parametrize(
    ("silent", "running", "expected"),
    [
        (1, 0, ["1 process had pools and ended without a word: killed, or left by os._exit()."]),
        (2, 0, ["2 processes had pools and ended without a word: killed, or left by os._exit()."]),
        (0, 1, ["1 process has not ended yet."]),
        (0, 2, ["2 processes have not ended yet."]),
        (None, None, ["What other processes of the program did cannot be known: the place for their word is gone."]),
    ],
)
def test_what_is_missing_is_told(silent: int | None, running: int | None, expected: list[str]) -> None:
    assert page(run(silent=silent, running=running)) == ["Connection pools of a program, process 4711", *expected]
    lines = page(run(process(PROGRAM, REUSED), silent=silent, running=running))
    assert lines[0].startswith("Connection pools of 1 process: 12,042 checkouts")
    assert lines[2].replace(" more", "") == expected[0]


@pytest.mark.parametrize("is_ascii", [False, True])
@pytest.mark.parametrize("width", [40, 41, 57, 80, 133, 200])
def test_every_page_fits_its_width_and_does_nothing_to_a_terminal_but_colour(width: int, is_ascii: bool) -> None:
    odd = replace(DROPS_AT_5_S, address="\x1b[31m." + "a" * 70 + ".example")
    many = [process(number, REUSED, odd, DROPS_AT_5_S) for number in range(4700, 4700 + MOST_PROCESSES + 2)]
    for found in run(*many, silent=1, running=1), run(*many[:2]), run(silent=None, running=None):
        plain = render_run(found, width=width, is_coloured=False, is_ascii=is_ascii)
        coloured = render_run(found, width=width, is_coloured=True, is_ascii=is_ascii)
        assert coloured != plain
        assert ESCAPE.sub("", coloured) == plain
        assert plain.isascii() or not is_ascii
        *lines, end = plain.split("\n")
        assert end == ""
        for line in lines:
            assert line.isprintable()
            assert len(line) <= width


def test_what_is_kept_is_the_same_when_it_is_read_again() -> None:
    for found in run(process(1, REUSED), process(2, DROPS_AT_5_S), silent=3), run(silent=None, running=None):
        assert read(found.to_json()) == found
