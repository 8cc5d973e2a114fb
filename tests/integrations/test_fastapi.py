"""FastAPI and Starlette: their lifespan, their thread pool, and the servers that run them."""

from __future__ import annotations

import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import requests
from fastapi import FastAPI, Request, Response
from fastapi.testclient import TestClient

import pool_telemetry
from misbehaving import Server
from tests.integrations.otlp import Receiver
from tests.integrations.services import AT_EXIT, check_told, exporting, free_port, serves, serving
from tests.support import Telemetry, check_laws

BEGIN = """
import os
from contextlib import asynccontextmanager
import requests
import pool_telemetry

pool_telemetry.install(export=True)
session = requests.Session()

@asynccontextmanager
async def lifespan(app):
    yield
    pool_telemetry.flush()
"""
FASTAPI = """
from fastapi import FastAPI

app = FastAPI(lifespan=lifespan)

@app.get("/{path:path}")
def ask(path: str) -> int:
    session.get(f"{os.environ['UPSTREAM']}/{path}").raise_for_status()
    return os.getpid()
"""
STARLETTE = """
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

def ask(request):
    session.get(os.environ["UPSTREAM"] + request.url.path).raise_for_status()
    return PlainTextResponse(str(os.getpid()))

app = Starlette(lifespan=lifespan, routes=[Route("/{path:path}", ask)])
"""
# Each with the application, how many processes serve it, and how the one that was started ends after SIGTERM.
SERVERS = {
    "uvicorn": (["uvicorn", "--port", "{port}"], FASTAPI, 1, -signal.SIGTERM),
    "uvicorn, workers": (["uvicorn", "--port", "{port}", "--workers", "2"], STARLETTE, 2, 0),
    "gunicorn": (
        ["gunicorn", "-b", "127.0.0.1:{port}", "-w", "2", "-k", "uvicorn.workers.UvicornWorker"],
        FASTAPI,
        2,
        0,
    ),
}


@pytest.mark.parametrize("kind", SERVERS)
def test_what_has_not_been_sent_yet_is_sent_in_the_lifespans_end_also_where_the_server_then_kills_itself(
    kind: str, tmp_path: Path, receiver: Receiver, server: Server
) -> None:
    command, app, workers, status = SERVERS[kind]
    (tmp_path / "app.py").write_text(BEGIN + app)
    port = free_port()
    started = [sys.executable, "-m", *(each.format(port=port) for each in command), "app:app"]
    with serving(started, port, tmp_path, [tmp_path], **exporting(receiver, UPSTREAM=server.url, **AT_EXIT)) as service:
        answered = serves(service, server, 3, workers=workers)
        assert not receiver.exports
        assert service.stop() == status, service.said()
    assert "Traceback" not in service.said()
    check_told(receiver, server, answered)


def test_spans_of_a_sync_endpoints_requests_lie_below_its_own_though_it_runs_in_a_thread(
    telemetry: Telemetry, server: Server
) -> None:
    telemetry.install()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        pool_telemetry.flush()  # without export it has nothing to send

    app = FastAPI(lifespan=lifespan)
    session = requests.Session()

    @app.middleware("http")
    async def trace(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        with telemetry.tracer.start_as_current_span("request"):
            return await call_next(request)

    @app.get("/{path:path}")
    def ask(path: str) -> int:
        return session.get(f"{server.url}/{path}").status_code

    with session, TestClient(app) as client:
        for number in range(1, 4):
            assert client.get("/fin/0.05").json() == 200
            server.wait_for(lambda books, number=number: books.ended["fin"] == number)  # type: ignore[misc]  # no lambda has types
    setups = telemetry.named("HTTP connection_setup")
    drops = telemetry.named("HTTP connection_dropped")
    assert (len(setups), len(drops)) == (server.books.accepted, 2) == (3, 2)
    assert len({span.context.trace_id for span in setups}) == 3
    assert [span.parent and span.parent.span_id for span in drops] == [
        span.parent and span.parent.span_id for span in setups[1:]
    ]
    assert all(span.parent for span in setups)
    check_laws(telemetry.collect(), checkouts=3)
