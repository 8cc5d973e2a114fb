"""A run as a page of text: what all its processes have done, each apart."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, TextIO

from . import _page
from . import _words as words
from ._at_end import NO_POOLS
from ._diagnosis import diagnose
from ._finding import Finding
from ._page import Page
from ._report import RANKS, about, add_figures, in_short, number_of, render, shown_and_rest, title, verdict
from ._run import Run
from ._snapshot import Snapshot, UpstreamSnapshot
from ._text import BOLD, WARNING, Text, count

MOST_PROCESSES = 20


class _Process(NamedTuple):
    snapshot: Snapshot
    findings: list[Finding]


def show_run(run: Run, file: TextIO) -> None:
    """Print the page as the file can take it; a file that is closed already gets nothing."""
    _page.show(functools.partial(render_run, run), file)


def render_run(run: Run, *, width: int, is_coloured: bool, is_ascii: bool = False) -> str:
    """The page of a run; arguments as of :func:`render`. With nothing to say but of one process, it is that one's."""
    processes = _in_order(run)
    missing = _missing(run)
    if not missing and not processes:
        return NO_POOLS
    if not missing and len(processes) == 1:
        return render(*processes[0], width=width, is_coloured=is_coloured, is_ascii=is_ascii)
    page = Page(width, is_ascii=is_ascii)
    _add_head(page, run, processes, missing)
    told: dict[tuple[str, str], int] = {}
    for snapshot, findings in processes[:MOST_PROCESSES]:
        page.skip()
        whose = ", the program's own" if snapshot.process == run.program else ""
        page.add(title(f"Process {snapshot.process}{whose}", snapshot, findings), margin=2)
        _, unseen = shown_and_rest(snapshot, findings)
        hidden = {each.name for each in unseen}  # whose findings are counted, and not told
        seen = [each if each.upstream in hidden else _not_twice(each, snapshot.process, told) for each in findings]
        add_figures(page, snapshot, seen)
    rest = processes[MOST_PROCESSES:]
    if rest:
        page.skip()
        more = f"and {count(len(rest), 'more process', 'more processes')}: "
        page.add([(more, BOLD), (in_short(_upstreams(rest), len(_findings(rest))), "")], margin=2)
    if processes and not _findings(processes):
        page.skip()
        page.add(verdict(_upstreams(processes)))
    return page.to_text(is_coloured=is_coloured)


def _in_order(run: Run) -> list[_Process]:
    """The program's own process, then those that are worst off, then the busiest."""
    processes = [_Process(snapshot, diagnose(snapshot)) for snapshot in run.processes]

    def key(each: _Process) -> tuple[bool, int, int, int]:
        snapshot, findings = each
        worst = min((RANKS[finding.severity] for finding in findings), default=len(RANKS))
        checkouts = sum(map(words.checkouts, snapshot.upstreams))
        return snapshot.process != run.program, worst, -checkouts, snapshot.process

    return sorted(processes, key=key)


def _missing(run: Run) -> list[str]:
    """What is not told, in sentences."""
    found = []
    if run.silent is None or run.running is None:
        found.append("What other processes of the program did cannot be known: the place for their word is gone.")
    else:
        more = "more " if run.processes else ""
        one, many = f"{more}process", f"{more}processes"
        if run.silent:
            found.append(
                f"{count(run.silent, one, many)} had pools and ended without a word: killed, or left by os._exit()."
            )
        if run.running:
            found.append(f"{count(run.running, one, many)} {'has' if run.running == 1 else 'have'} not ended yet.")
    return found


def _add_head(page: Page, run: Run, processes: Sequence[_Process], missing: Sequence[str]) -> None:
    head: Text = [(f"Connection pools of a program, process {run.program}", BOLD)]
    if processes:
        many = count(len(processes), "process", "processes")
        figures = in_short(_upstreams(processes))
        head = [(f"Connection pools of {many}: {figures}", BOLD), *number_of(_findings(processes))]
    page.add(head, margin=2)
    if processes:
        page.add(about(max((each.snapshot for each in processes), key=lambda each: each.taken_at)), margin=2)
    for sentence in missing:
        page.add([(sentence, WARNING)], margin=2)


def _not_twice(finding: Finding, process: int, told: dict[tuple[str, str], int]) -> Finding:
    """The finding; its advice only in the first process that has it. So twenty workers do not say it twenty times."""
    first = told.setdefault((finding.name, finding.upstream), process)
    return finding if first == process else replace(finding, advice=(f"What to do: as in process {first}",))


def _upstreams(processes: Sequence[_Process]) -> list[UpstreamSnapshot]:
    return [upstream for each in processes for upstream in each.snapshot.upstreams]


def _findings(processes: Sequence[_Process]) -> list[Finding]:
    return [finding for each in processes for finding in each.findings]
