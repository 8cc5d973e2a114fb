"""A snapshot and its findings as a page of text, for a terminal, a pipe or a file."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from typing import TextIO

from . import _page
from . import _words as words
from ._advice import RETRY, RETRY_AGAIN
from ._finding import Finding, Severity
from ._lifecycle import OTHER
from ._page import Page
from ._snapshot import Snapshot, UpstreamSnapshot
from ._text import BAD, BOLD, DIM, GOOD, NOTE, TIE, WARNING, Text, clean, count, duration, share

MOST_UPSTREAMS = 20
_GAP = "     "
_BAR_WIDTH, _BAR_END = 20, 120  # to the right of the name, and not too far from it
_BEFORE_UNIT = re.compile(r"(?<=\d) (?=(%|µs|ms|s|min|h|days)(?!\w))")
_MARKS = {Severity.HIGH: ("!!", BAD), Severity.MEDIUM: ("!", WARNING), Severity.LOW: ("i", NOTE)}
#: The worst first.
RANKS = {severity: rank for rank, severity in enumerate(Severity)}


def show(snapshot: Snapshot, findings: Sequence[Finding], file: TextIO) -> None:
    """Print the page as the file can take it; a file that is closed already gets nothing."""
    _page.show(functools.partial(render, snapshot, findings), file)


def render(
    snapshot: Snapshot, findings: Sequence[Finding], *, width: int, is_coloured: bool, is_ascii: bool = False
) -> str:
    """The page, in lines no longer than the width; in colour only if rich is there.

    Args:
        snapshot: what to tell of.
        findings: those of its diagnosis.
        width: in columns; 40 are taken at least.
        is_coloured: whether escape sequences may be in it.
        is_ascii: ASCII stands for all other characters.
    """
    page = Page(width, is_ascii=is_ascii)
    page.add(title(f"Connection pools of process {snapshot.process}", snapshot, findings), margin=2)
    page.add(about(snapshot), margin=2)
    add_figures(page, snapshot, findings)
    if not findings:
        page.skip()
        page.add(verdict(snapshot.upstreams))
    return page.to_text(is_coloured=is_coloured)


def title(who: str, snapshot: Snapshot, findings: Sequence[Finding]) -> Text:
    """Whose figures follow, how long they were kept, and how bad they are."""
    named = sum(each.address != OTHER for each in snapshot.upstreams)
    more = "more than " if named < len(snapshot.upstreams) else ""
    watched = f"watched for {duration(snapshot.watched_seconds)}: {more}{count(named, 'upstream')}"
    return [(f"{who}, {watched}", BOLD), *number_of(findings)]


def number_of(findings: Sequence[Finding]) -> Text:
    """How many findings there are, in the colour of the worst; to be added to a title."""
    if not findings:
        return []
    _, style = _MARKS[min((each.severity for each in findings), key=RANKS.__getitem__)]
    return [(", ", BOLD), (count(len(findings), "finding"), f"{BOLD} {style}")]


def about(snapshot: Snapshot) -> Text:
    """When and by what it was taken."""
    facts = (
        f"{snapshot.taken_at[:19].replace('T', ' ')} UTC",
        f"pool_telemetry {snapshot.version}",
        f"urllib3 {snapshot.urllib3_version}",
        f"Python {snapshot.python_version}",
    )
    return [(f"{TIE}· ".join(clean(each).replace(" ", TIE) for each in facts), DIM)]


def add_figures(page: Page, snapshot: Snapshot, findings: Sequence[Finding]) -> None:
    """All upstreams of a process, each with its findings."""
    if not snapshot.is_installed:
        page.add([("Nothing is watched at present: call pool_telemetry.install().", WARNING)], margin=2)
    by_name = _by_upstream(findings)
    upstreams, rest = shown_and_rest(snapshot, findings)
    said: set[str] = set()
    for upstream in upstreams:
        page.skip()
        _add_upstream(page, upstream)
        _add_findings(page, by_name.pop(upstream.name, ()), said)
    if rest:
        page.skip()
        its_findings = sum(len(by_name.pop(each.name, ())) for each in rest)
        more = f"and {count(len(rest), 'more upstream', 'more upstreams')}: "
        page.add([(more, BOLD), (in_short(rest, its_findings), "")], margin=2)
    for unplaced, of_it in by_name.items():
        page.skip()
        page.add([(clean(unplaced), BOLD)], margin=2)
        _add_findings(page, of_it, said)


def shown_and_rest(
    snapshot: Snapshot, findings: Sequence[Finding]
) -> tuple[list[UpstreamSnapshot], list[UpstreamSnapshot]]:
    """The upstreams of which a page tells each apart, in order, and those that it sums up."""
    # A diagnosis tells first what costs most.
    places = {name: place for place, name in enumerate(_by_upstream(findings))}
    upstreams = sorted(
        snapshot.upstreams, key=lambda each: (places.get(each.name, len(places)), -words.checkouts(each), each.name)
    )
    return upstreams[:MOST_UPSTREAMS], upstreams[MOST_UPSTREAMS:]


def _by_upstream(findings: Sequence[Finding]) -> dict[str, list[Finding]]:
    """By name, the worst first."""
    found: dict[str, list[Finding]] = {}
    for finding in sorted(findings, key=lambda each: RANKS[each.severity]):
        found.setdefault(finding.upstream, []).append(finding)
    return found


def _add_upstream(page: Page, upstream: UpstreamSnapshot) -> None:
    title, now, rows = list(words.name(upstream)), words.state(upstream), list(words.rows(upstream))
    bar = words.bar(upstream, _BAR_WIDTH)
    with_state = _length(title) + len(_GAP) + _length(now)
    # What is only reused takes two lines; with more to say, one more for the state leaves room for the bar.
    if with_state + (len(_GAP) + _length(bar) if len(rows) > 1 else 0) <= page.width:
        title += [(_GAP, ""), *now]
    else:
        rows.insert(0, words.Row("now", None, now))
    room = min(page.width, _BAR_END) - _length(title) - _length(bar)
    if room >= len(_GAP):
        title += [(" " * room, ""), *bar]
    page.add(title, margin=2)
    widest = max(len(f"{row.number:,}") for row in rows if row.number is not None)
    for label, number, text in rows:
        head = [(f"  {label:<9}  ", DIM)]
        if number is not None:
            head += [(f"{number:>{widest},}", ""), ("   ", "")]
        page.add(text, head)


def _length(text: Text) -> int:
    return sum(len(part) for part, _ in text)


def _add_findings(page: Page, findings: Sequence[Finding], said: set[str]) -> None:
    for finding in findings:
        mark, style = _MARKS[finding.severity]
        page.add([(_prose(finding.summary), BOLD)], [("  ", ""), (mark, f"{BOLD} {style}"), (" ", "")])
        margin = " " * (len(mark) + 3)
        for number, each in enumerate(finding.advice, 1):
            advice = each.replace(RETRY, RETRY_AGAIN) if RETRY in said else each
            if RETRY in each:
                said.add(RETRY)
            head = f"{margin}{number}. " if len(finding.advice) > 1 else margin
            page.add([(_prose(advice), "")], [(head, "")])


def _prose(text: str) -> str:
    plain = _BEFORE_UNIT.sub(TIE, clean(" ".join(text.split())))
    return plain + "." if plain[-1:].isalnum() or plain[-1:] in (")", "%") else plain


def in_short(upstreams: Sequence[UpstreamSnapshot], findings: int = 0) -> str:
    """What there is to say of many upstreams in half a line."""
    total, lost = sum(map(words.checkouts, upstreams)), sum(map(words.dropped, upstreams))
    reused = sum(each.checkouts.get("reused", 0) for each in upstreams)
    facts = (
        count(total, "checkout"),
        f"{share(reused, total)}{TIE}reused" if total else "",
        f"{lost:,}{TIE}dropped" if lost else "",
        f"{sum(len(each.connections) for each in upstreams):,}{TIE}open",
        count(findings, "finding") if findings else "",
    )
    return ", ".join(filter(None, facts))


def verdict(upstreams: Sequence[UpstreamSnapshot]) -> Text:
    """The last line where nothing was found; it says no more than the figures do."""
    total = sum(map(words.checkouts, upstreams))
    flaws = ", ".join(text for number, text in _flaws(upstreams) if number)
    if flaws:
        return [("No findings.", BOLD), (f" In {count(total, 'checkout')}: {flaws}.", "")]
    if not total:
        return [("No request has gone through a connection pool so far.", "")]
    praise = f" {count(total, 'checkout')}, no drop, no failed set-up, no leak."
    return [("Nothing to worry about:", f"{BOLD} {GOOD}"), (praise, "")]


def _flaws(upstreams: Sequence[UpstreamSnapshot]) -> Iterator[tuple[int, str]]:
    lost = sum(map(words.dropped, upstreams))
    yield lost, count(lost, "dropped connection")
    dead = sum(sum(words.dead_states(each).values()) for each in upstreams)
    yield dead, count(dead, "dead connection in its pool", "dead connections in their pools")
    failed = sum(each.count for upstream in upstreams for each in upstream.failed_setup_seconds.values())
    yield failed, count(failed, "failed set-up")
    denied = sum(each.checkouts.get(why, 0) for each in upstreams for why in ("timed_out", "pool_closed"))
    yield denied, count(denied, "checkout without a connection", "checkouts without a connection")
    waiting = sum(each.pending_requests for each in upstreams)
    yield waiting, count(waiting, "waiting thread")
    leaked = sum(each.leaked_connections for each in upstreams)
    yield leaked, count(leaked, "leaked connection")
    inherited = sum(each.inherited_connections for each in upstreams)
    yield inherited, count(inherited, "connection of another process", "connections of another process")
    # By name: those of several processes may be of one.
    reused = {each.name for each in upstreams if each.checkouts.get("reused")}
    unused = {each.name for each in upstreams if words.checkouts(each) > max(each.active_peak, 1)} - reused
    wasteful = len(unused)
    yield wasteful, count(wasteful, "upstream without any reuse", "upstreams without any reuse")
