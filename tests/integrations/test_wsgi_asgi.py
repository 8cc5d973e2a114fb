"""One line in an application of no framework, under servers of WSGI and ASGI."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from misbehaving import Server
from tests.integrations.otlp import Receiver
from tests.integrations.services import AT_EXIT, check_told, exporting, free_port, serves, serving
from tests.programs import INTERRUPTIBLE

BEGIN = """
import os, requests
import pool_telemetry

pool_telemetry.install(export=True)
session = requests.Session()

def ask(path):
    session.get(os.environ["UPSTREAM"] + path).raise_for_status()
    return str(os.getpid()).encode()
"""
ORDERLY = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
"""
WSGI = """
def app(environ, start_response):
    body = ask(environ["PATH_INFO"])
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
"""
WSGIREF = """
import sys
from wsgiref.simple_server import make_server
from app import app

make_server("127.0.0.1", int(sys.argv[1]), app).serve_forever()
"""
ASGI = """
import asyncio

async def app(scope, receive, send):
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])
    body = await asyncio.to_thread(ask, scope["path"])
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
"""
# Each with its application, and the signal after which its Python ends in order.
SERVERS = {
    "wsgiref, orderly": (["serve.py", "{port}"], ORDERLY + WSGI, signal.SIGTERM),
    "waitress": (["-m", "waitress", "--listen", "127.0.0.1:{port}", "app:app"], WSGI, signal.SIGINT),
    "uvicorn": (["-m", "uvicorn", "--port", "{port}", "app:app"], ASGI, signal.SIGINT),
    "hypercorn": (["-m", "hypercorn", "-b", "127.0.0.1:{port}", "app:app"], ASGI, signal.SIGTERM),
}


@pytest.mark.parametrize("kind", SERVERS)
def test_what_has_not_been_sent_yet_is_sent_when_the_server_ends_in_order(
    kind: str, tmp_path: Path, receiver: Receiver, server: Server
) -> None:
    command, app, end = SERVERS[kind]
    (tmp_path / "app.py").write_text(BEGIN + app)
    (tmp_path / "serve.py").write_text(WSGIREF)
    port = free_port()
    started = [*INTERRUPTIBLE, *(each.format(port=port) for each in command)]
    with serving(started, port, tmp_path, [tmp_path], **exporting(receiver, UPSTREAM=server.url, **AT_EXIT)) as service:
        answered = serves(service, server, 3)
        assert not receiver.exports
        service.stop(end)
    check_told(receiver, server, answered)
