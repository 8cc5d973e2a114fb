"""What a report says of an upstream; where it stands on the page is not decided here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from ._figures import is_one_limit
from ._lifecycle import ESTABLISHED, INVALID, OTHER
from ._snapshot import Durations, UpstreamSnapshot
from ._text import (
    BAD,
    BOLD,
    DIM,
    GOOD,
    NOTE,
    TIE,
    TO,
    WARNING,
    Text,
    clean,
    count,
    duration,
    figure_and_unit,
    from_to,
    listed,
    ranked,
    share,
)

# Of a checkout, with its part in the bar: dense is good, holes are bad. Without a connection there is no part.
_OUTCOMES = {
    "reused": (GOOD, "\N{FULL BLOCK}"),
    "new": (NOTE, "\N{DARK SHADE}"),
    "replaced": (BAD, "\N{LIGHT SHADE}"),
    "timed_out": (BAD, ""),
    "pool_closed": (BAD, ""),
}
_DROPS = {"fin": "FIN", "reset": "RST", "close_notify": "TLS close_notify", "unknown": "unknown how"}
_NOT_KEPT = {
    "response_close": "Connection: close",
    "discarded": "pool was full",
    "failed": "request failed",
    "abandoned": "response not read",
}
_PHASES = ("dns", "connect", "proxy", "tls")
_IDLE = "idle"
# Below that nobody notices a wait; the least that makes a span, too.
_LEAST_WAIT = 0.01


class Row(NamedTuple):
    """A line of an upstream's: what it is about, how many there were, and what to say of them."""

    label: str
    number: int | None
    text: Text


def checkouts(upstream: UpstreamSnapshot) -> int:
    """How many there were."""
    return sum(upstream.checkouts.values())


def dropped(upstream: UpstreamSnapshot) -> int:
    """How many connections were found dropped, in either phase."""
    return sum(sum(by_phase.values()) for by_phase in upstream.drops.values())


def dead_states(upstream: UpstreamSnapshot) -> Counter[str]:
    """TCP states of pooled connections that are no longer sound, as far as they are known."""
    states = (each.tcp_state for each in upstream.connections if each.state == _IDLE)
    return Counter(each for each in states if each is not None and each != ESTABLISHED)


def name(upstream: UpstreamSnapshot) -> Text:
    """Scheme, host and port, or what there is instead."""
    if upstream.address == OTHER:
        return [(clean(upstream.name), BOLD), (" (all beyond max_upstreams)", DIM)]
    if upstream.address == INVALID:
        return [(clean(upstream.name), BOLD), (" (all that have no host's name)", DIM)]
    if upstream.port is None:
        return [(clean(upstream.address), BOLD), (f" (unix socket, {clean(upstream.scheme)})", DIM)]
    return [(clean(upstream.name), BOLD)]


def state(upstream: UpstreamSnapshot) -> Text:
    """What is there now: connections, pools, threads that wait."""
    parts: list[Text] = [_open(upstream)]
    if upstream.pools:
        parts.append([(_pools(upstream), DIM)])
    if upstream.pending_requests:
        waiting = count(upstream.pending_requests, "thread waits", "threads wait")
        parts.append([(f"{waiting} for a connection", BAD)])
    return listed(parts)


def _open(upstream: UpstreamSnapshot) -> Text:
    total = len(upstream.connections)
    idle = sum(each.state == _IDLE for each in upstream.connections)
    if not total:
        return [("none open" if upstream.pools else "all closed", DIM)]
    levels = ((total - idle, "active"), (idle, "idle"))
    told = ", ".join(f"{number:,}{TIE}{what}" for number, what in levels if number)
    found = [(f"{total:,}{TIE}open: {told}" if 0 < idle < total else told, "")]
    for place, (tcp_state, number) in enumerate(dead_states(upstream).most_common()):
        found.append((", of which " if idle > 1 and not place else ", ", ""))
        found.append(((f"{number:,}{TIE}" if idle > 1 else "") + f"in{TIE}{clean(tcp_state).upper()}", BAD))
    return found


def _pools(upstream: UpstreamSnapshot) -> str:
    pools, many = upstream.pools, len(upstream.pools)
    least, most = min(each.maximum for each in pools), max(each.maximum for each in pools)
    size = f"of{TIE}{least:,}" if least == most else f"of{TIE}{least:,}{TIE}{TO}{TIE}{most:,}"
    if least < 1:  # as a queue understands it
        size = ("" if most < 1 else "some ") + "without a limit"
    blocking, proxied = sum(each.is_blocking for each in pools), sum(each.is_proxied for each in pools)
    kind = f"blocking{TIE}" if blocking == many else ""
    text = f"{kind}pool{TIE}{size}" if many == 1 else f"{many:,}{TIE}{kind}pools{TIE}{size}"
    text += f", {blocking:,}{TIE}blocking" if 0 < blocking < many else ""
    if proxied:
        text += f", {'' if proxied == many else f'{proxied:,}{TIE}'}through a proxy"
    return text


def bar(upstream: UpstreamSnapshot, columns: int) -> Text:
    """What checkouts found, drawn in so many columns; no dead connection is too rare to be seen."""
    found = {outcome: upstream.checkouts.get(outcome, 0) for outcome, (_, mark) in _OUTCOMES.items() if mark}
    total = sum(found.values())
    if not total:
        return []
    parts = {outcome: number * columns // total for outcome, number in found.items()}
    parts["replaced"] = max(parts["replaced"], min(found["replaced"], 1))
    parts[max(found, key=found.__getitem__)] += columns - sum(parts.values())
    return [(_OUTCOMES[outcome][1] * part, _OUTCOMES[outcome][0]) for outcome, part in parts.items() if part]


def rows(upstream: UpstreamSnapshot) -> Iterator[Row]:
    """What has happened, as far as there is something to say."""
    yield _checkout_row(upstream)
    yield from _drop_row(upstream)
    yield from _idle_row(upstream.idle_seconds)
    yield from _limit_row(upstream.remote_close_seconds)
    yield from _setup_row(upstream)
    yield from _failed_row(upstream.failed_setup_seconds)
    yield from _wait_row(upstream)
    closed = {text: upstream.closed_connections.get(why, 0) for why, text in _NOT_KEPT.items()}
    if any(closed.values()):
        yield Row("not kept", sum(closed.values()), listed([(each, "")] for each in ranked(closed)))
    if upstream.leaked_connections:
        yield Row("leaked", upstream.leaked_connections, [("checked out, and never came back", BAD)])
    live = len(upstream.pools)
    if upstream.pools_created > max(live, 1):
        yield Row(
            "pools", upstream.pools_created, [(f"created, {format(live, ',') if live else 'none'} of them alive", "")]
        )
    yield from _adopted_row(upstream)


def _checkout_row(upstream: UpstreamSnapshot) -> Row:
    total, parts = checkouts(upstream), []
    for outcome in {**_OUTCOMES, **upstream.checkouts}:
        number = upstream.checkouts.get(outcome, 0)
        if number or (outcome == "reused" and total > 1):
            percent = "" if number in (0, total) else f" ({share(number, total)})"
            told = f"{clean(outcome).replace('_', ' ')} {number:,}{percent}".replace(" ", TIE)
            style, _ = _OUTCOMES.get(outcome, ("", ""))
            parts.append([(told, style if number else BAD)])
    return Row("checkouts", total, listed(parts, "   "))


def _drop_row(upstream: UpstreamSnapshot) -> Iterator[Row]:
    total = dropped(upstream)
    if total:
        found: Counter[str] = Counter()
        for reason, by_phase in upstream.drops.items():
            found[_DROPS.get(reason, reason.replace("_", " "))] += sum(by_phase.values()) - by_phase.get("request", 0)
        told = ranked(found)
        lost = total - sum(found.values())
        if lost:
            told.append(count(lost, f"lost{TIE}race") + _idle_before(upstream.lost_race_idle_seconds.values()))
        yield Row("dropped", total, listed([(each, "")] for each in told))


def _idle_before(races: Iterable[Durations]) -> str:
    """After how long, to be compared with the server's limit."""
    known = [each for each in races if each.count]
    if not known:
        return ""
    return f" after {from_to(min(each.minimum for each in known), max(each.maximum for each in known), 3)} idle"


def _typical(found: Durations) -> str:
    return ("median " if found.count > 1 else "") + duration(found.median)


def _idle_row(idle: Mapping[str, Durations]) -> Iterator[Row]:
    dead, alive = idle.get("replaced"), idle.get("reused")
    if dead and dead.count:
        found = f"{_typical(dead)} when found dead"
        found += f" (p95 {duration(dead.p95)})" if dead.count > 1 else ""
        found += f", {duration(alive.median)} when reused" if alive and alive.count else ""
        yield Row("idle", None, [(found, "")])


def _limit_row(ages: Durations | None) -> Iterator[Row]:
    if not ages or not ages.count:
        return
    seen, ends = f"{ages.count:,}{TIE}seen", from_to(ages.minimum, ages.maximum, 3)
    if is_one_limit(ages):
        limit = duration(ages.median, 3)
        around = "" if ends == limit else f", {ends}"
        text = [("the server after ", ""), (limit, WARNING), (f" idle ({seen}{around})", "")]
    else:
        text = [(f"the server after {ends} idle, median {duration(ages.median)} ({seen})", "")]
    yield Row("closed by", None, text)


def _setup_row(upstream: UpstreamSnapshot) -> Iterator[Row]:
    by_cause = {cause: each for cause, each in upstream.setup_seconds.items() if each.count}
    repairs = [each for cause, each in by_cause.items() if cause != "new"]
    among = repairs or list(by_cause.values())
    number = sum(each.count for each in among)
    # As many as were in use at once are what a pool cannot do without.
    if not repairs and number <= max(upstream.active_peak, 1):
        return
    usual = max(among, key=lambda each: each.count)
    told = _typical(usual) + _phases(usual.median, upstream.setup_phase_seconds)
    if number == 1:
        yield Row("set-up", None, [(f"{told}, once, to reconnect", "")])
    else:
        what = "reconnecting" if repairs else f"connecting {number:,}{TIE}times"
        spent = duration(sum(each.total for each in among))
        yield Row("set-up", None, [(f"{told}: ", ""), (spent, WARNING), (f" spent {what}", "")])


def _phases(whole: float, by_phase: Mapping[str, Durations]) -> str:
    known = {phase: by_phase[phase] for phase in (*_PHASES, *by_phase) if phase in by_phase}
    parts = {phase: figure_and_unit(each.median) for phase, each in known.items() if each.count}
    # One unit for all need not be repeated.
    if {unit for _, unit in parts.values()} == {figure_and_unit(whole)[1]}:
        told = [f"{clean(phase)}{TIE}{figure.removesuffix('.0')}" for phase, (figure, _) in parts.items()]
    else:
        told = [TIE.join((clean(phase), *part)) for phase, part in parts.items()]
    return f" ({', '.join(told)})" if told else ""


def _failed_row(failed: Mapping[str, Durations]) -> Iterator[Row]:
    by_type: Counter[str] = Counter()
    for error, each in failed.items():
        by_type[error.rpartition(".")[2]] += each.count
    total = sum(by_type.values())
    if total:
        lost = duration(sum(each.total for each in failed.values()))
        what = "set-up, " if total == 1 else "set-ups, "
        yield Row(
            "failed", total, [(what, ""), (f"{lost} spent", WARNING), (": ", ""), (", ".join(ranked(by_type)), BAD)]
        )


def _wait_row(upstream: UpstreamSnapshot) -> Iterator[Row]:
    served, failed = upstream.wait_seconds, upstream.failed_wait_seconds
    parts: list[Text] = []
    if served and served.count and served.maximum >= _LEAST_WAIT:
        several = f", p95 {duration(served.p95)}, longest {duration(served.maximum)}" if served.count > 1 else ""
        parts.append([(_typical(served) + several, "")])
    if failed and failed.count:
        parts.append([(f"{failed.count:,}{TIE}gave up after {from_to(failed.minimum, failed.maximum)}", BAD)])
    if parts:
        yield Row("waits", None, listed(parts))


def _adopted_row(upstream: UpstreamSnapshot) -> Iterator[Row]:
    total, inherited = upstream.adopted_connections, upstream.inherited_connections
    if total:
        many = "" if inherited == total else f"{inherited:,} of them "
        whose = [(f", {many}by a process that forked this one", BAD)] if inherited else []
        yield Row("adopted", total, [("opened while not watched", ""), *whose])
