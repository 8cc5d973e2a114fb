"""What the report says, against what the server and the kernel saw."""

from __future__ import annotations

from pathlib import Path

from .._lifecycle import CLOSE_WAIT
from .._snapshot import UpstreamSnapshot
from ._server import Books

_CLOSE_WAIT = "08"  # of enum tcp_state in include/net/tcp_states.h


class DisagreementError(Exception):
    """What was told is not what happened."""


def check(upstream: UpstreamSnapshot, books: Books, in_kernel: int | None, forgotten: int) -> None:
    """Compare each figure of the report with that of somebody else.

    Args:
        upstream: what was reported.
        books: the server's.
        in_kernel: sockets in CLOSE_WAIT by the kernel's own table; ``None`` where there is none to be had.
        forgotten: responses that the story left unread.

    Raises:
        DisagreementError: two differ.
    """
    drops = upstream.drops
    parked = [each.tcp_state for each in upstream.connections]
    figures = [
        ("checkouts", sum(upstream.checkouts.values()), "requests received", books.requests),
        ("opened", upstream.opened_connections, "connections accepted", books.accepted),
        ("resets found", _found(drops, "reset", "checkout"), "RSTs sent", books.resets),
        ("lost races", sum(_found(drops, each, "request") for each in drops), "unanswered", books.unanswered),
    ]
    if None not in parked:  # else it cannot be told how many FINs nobody has found yet
        fins = _found(drops, "fin", "checkout") + parked.count(CLOSE_WAIT)
        figures.append(("FINs found, and CLOSE_WAIT", fins, "FINs sent", books.fins))
    for what, told, whose, seen in figures:
        expect(what, told, f"by the server's books ({whose})", seen)
    expect("leaked", upstream.leaked_connections, "forgotten by this program", forgotten)
    if in_kernel is not None and None not in parked:
        expect("CLOSE_WAIT", parked.count(CLOSE_WAIT), "by the kernel", in_kernel)


def check_end(upstream: UpstreamSnapshot, books: Books) -> None:
    """Compare how many connections were closed, once all are, with how many the server has accepted."""
    closed = sum(upstream.closed_connections.values())
    expect("closed", closed, "by the server's books (connections accepted)", books.accepted)


def _found(drops: dict[str, dict[str, int]], reason: str, phase: str) -> int:
    return drops.get(reason, {}).get(phase, 0)


def expect(what: str, told: int, by_whom: str, seen: int) -> None:
    """Both figures have to be the same."""
    if told != seen:
        raise DisagreementError(f"{what}: {told} in the report, {seen} {by_whom}.")


def kernel_close_wait(port: int) -> int | None:
    """Sockets in CLOSE_WAIT whose other end is this port of this machine, by Linux's own table."""
    try:
        lines = Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]
    except OSError:
        return None
    # A row may come twice: the kernel writes the table page by page, while other programs open and close sockets.
    ends = {tuple(line.split()[1:4]) for line in lines}
    return sum(int(remote.rpartition(":")[2], 16) == port and state == _CLOSE_WAIT for _, remote, state in ends)
