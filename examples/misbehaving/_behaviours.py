"""The table of behaviours: what a path makes the server do.

At once, instead of or with the response:

| path | behaviour | counted as |
|---|---|---|
| `/ok` | 200, kept alive | |
| `/close` | announces `Connection: close`, closes | `close_header` |
| `/http10` | answers as HTTP/1.0, closes | `http10` |
| `/status/CODE`, `/redirect/PATH` | that status; a 302 to /PATH | |
| `/big/N`, `/chunked/N/S`, `/slow/S`, `/hang` | N bytes; N chunks, S seconds apart; S seconds late; never | |
| `/lost`, `/lost-rst`, `/lost-unread` | 200 to a connection's first request; a later one is not answered: FIN, RST, or a close with the request unread in the kernel (an RST again) | `lost_fin`, `lost_rst`, `lost_unread` |
| `/partial-rst`, `/partial-head-rst` | an RST in the middle of the status line, or of the head | `partial_rst`, `partial_head_rst` |
| `/truncate`, `/garbage` | a FIN in the middle of the body, or after a line that is not HTTP | `truncate`, `garbage` |

After a response, once the connection was idle for S seconds; the next request cancels it:

| path | behaviour | counted as |
|---|---|---|
| `/fin/S`, `/rst/S` | closes by FIN (TLS: after a close_notify), or by RST | `fin`, `rst` |
| `/half-close/S` | a FIN, and reads on | `half_close` |
| `/close-notify/S` | TLS only: the alert without a FIN | `close_notify` |
| `/stray/S` | bytes nobody asked for | `stray` |
| `/408/S` | a 408 response with `Connection: close`, then FIN | `408` |
| `/late-handshake/S` | TLS 1.3 only: a CertificateRequest; the connection lives on | |

Anything else is a 404, kept alive.
"""  # noqa: E501 - a table row cannot be wrapped

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from ._http import Head, render_head

if TYPE_CHECKING:
    from ._connection import Connection

STRAY_BYTES = b"stray"
CHUNK = b"chunk"
# Lets the fragment arrive before the RST, which may overtake it in the client's eyes.
RST_DELAY = 0.05


class Plan(NamedTuple):
    """What to do to a connection that stays idle."""

    act: str
    seconds: float


def _partial(connection: Connection, fragment: bytes, kind: str) -> None:
    connection.send(fragment)
    connection.pause(RST_DELAY)
    connection.abort(kind)


def _lost(connection: Connection, head: Head, *, first: bool, name: str) -> None:
    # A later /lost-unread never gets here: it must be recognised before the request has been read.
    if not first and name == "lost":
        connection.finish("lost_fin")
    if not first and name == "lost-rst":
        connection.abort("lost_rst")
    connection.respond(head)


def _chunks(connection: Connection, rest: str) -> Iterator[bytes]:
    count, _, seconds = rest.partition("/")
    for index in range(int(count)):
        if index:
            connection.pause(float(seconds or 0))
        yield CHUNK


def _slow(connection: Connection, head: Head, seconds: float) -> None:
    connection.pause(seconds)
    connection.respond(head)


def _truncate(connection: Connection) -> None:
    connection.send(render_head(200, [("Content-Length", "1000")]) + b"x" * 10)
    connection.finish("truncate")


def _garbage(connection: Connection) -> None:
    connection.send(b"this is not HTTP\r\n")
    connection.finish("garbage")


def _redirect(connection: Connection, head: Head, path: str) -> None:
    connection.respond(head, 302, b"", [("Location", f"/{path}")])


Action = Callable[["Connection", Head, str], object]

AT_ONCE: dict[str, Action] = {
    "ok": lambda c, head, _: c.respond(head),
    "close": lambda c, head, _: c.respond(head, last_kind="close_header"),
    "http10": lambda c, head, _: c.respond(head, version="HTTP/1.0", last_kind="http10"),
    "status": lambda c, head, rest: c.respond(head, int(rest), b"status"),
    "redirect": _redirect,
    "big": lambda c, head, rest: c.respond(head, body=b"x" * int(rest)),
    "chunked": lambda c, head, rest: c.respond(head, chunks=_chunks(c, rest)),
    "slow": lambda c, head, rest: _slow(c, head, float(rest)),
    "hang": lambda c, head, _: c.pause(None),
    "partial-rst": lambda c, head, _: _partial(c, b"HTTP/1.1 2", "partial_rst"),
    "partial-head-rst": lambda c, head, _: _partial(c, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n", "partial_head_rst"),
    "truncate": lambda c, head, _: _truncate(c),
    "garbage": lambda c, head, _: _garbage(c),
}
LATER = ("fin", "rst", "half-close", "close-notify", "stray", "408", "late-handshake")
NEEDS_TLS = {"close-notify": ("TLSv1.2", "TLSv1.3"), "late-handshake": ("TLSv1.3",)}


def behave(connection: Connection, head: Head, *, first: bool) -> Plan | None:
    """Answers a request as its path demands; gives what is to happen in the idleness after it."""
    name, _, rest = head.target.partition("?")[0].removeprefix("/").partition("/")
    try:
        if name in AT_ONCE:
            AT_ONCE[name](connection, head, rest)
            return None
        if name in ("lost", "lost-rst", "lost-unread"):
            _lost(connection, head, first=first, name=name)
            return None
        if name in LATER and connection.tls_version in NEEDS_TLS.get(name, (connection.tls_version,)):
            plan = Plan(name.replace("-", "_"), float(rest))
            connection.respond(head)
            return plan
    except ValueError as error:
        connection.respond(head, 400, str(error).encode())
        return None
    connection.respond(head, 404, b"no such behaviour")
    return None
