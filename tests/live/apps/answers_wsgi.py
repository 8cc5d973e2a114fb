"""The two answers as a WSGI application."""

from __future__ import annotations

from collections.abc import Callable, Iterable

BODIES = {"/ok": b"ok", "/big": b"x" * 2**20}


def app(environ: dict[str, str], start_response: Callable[[str, list[tuple[str, str]]], object]) -> Iterable[bytes]:
    body = BODIES.get(environ["PATH_INFO"])
    status = "404 Not Found" if body is None else "200 OK"
    body = body or b""
    start_response(status, [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
