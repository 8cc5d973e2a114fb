"""The demo's own figures against the servers' books."""

from __future__ import annotations

from collections.abc import Mapping

from misbehaving import Books, Server

from .expect import expect
from .stage import Stage
from .telemetry import DROPPED, PREFIX, Metrics


def compare(stage: Stage, before: Metrics, after: Metrics, books: Mapping[Server, Books]) -> None:
    """The metrics, before and after the session's end, against the servers' books at its end."""
    columns = []
    for server in stage.servers:
        book = books[server]
        opened = after.total(PREFIX + "pool.opened_connections", server)
        figures = [
            ("checkouts", after.total(PREFIX + "pool.checkouts", server), "requests received", book.requests),
            ("opened", opened, "connections accepted", book.accepted),
            ("closed", after.total(PREFIX + "pool.closed_connections", server), "the same", book.accepted),
            (
                "reset/checkout",
                before.total(DROPPED, server, reason="reset", phase="checkout"),
                "RSTs",
                book.ended["rst"],
            ),
            (
                "any reason/request",
                before.total(DROPPED, server, phase="request"),
                "requests left unanswered",
                book.ended["lost_fin"] + book.ended["lost_rst"],
            ),
        ]
        parked = before.sockets(server)
        if not parked["unknown"]:  # else it cannot be told how many FINs nobody has found yet
            found = before.total(DROPPED, server, reason="fin", phase="checkout")
            figures.append(("fin/checkout + CLOSE_WAIT", found + parked["close_wait"], "FINs", book.ended["fin"]))
        columns.append(figures)
    print(f"   {'metrics':<27} {'books':<27} {'HTTP':>10} {'HTTPS':>10}")
    for http, https in zip(*columns, strict=True):
        pairs = [f"{told} = {seen}" if told == seen else f"{told} ! {seen}" for _, told, _, seen in (http, https)]
        print(f"   {http[0]:<27} {http[2]:<27} {pairs[0]:>10} {pairs[1]:>10}")
    for server, figures in zip(stage.servers, columns, strict=True):
        for what, told, whose, seen in figures:
            expect(f"{server.url}: {what}", told, f"by the server's books ({whose})", seen)
