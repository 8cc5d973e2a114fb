"""The real servers start, answer on a kept-alive connection, and close it after their idle limit."""

from __future__ import annotations

import contextlib
import http.client
import ssl
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.live.apps import kinds
from tests.live.real_servers import NAMES, RealServer, running, start_or_skip

EACH = [(name, tls) for name in NAMES for tls in (False, True)]


@dataclass(frozen=True)
class Seen:
    server: RealServer
    bodies: list[bytes]
    one_connection: bool
    at_the_end: bytes
    seconds: float


def watch(name: str, tls: bool, folder: Path) -> Seen:
    with start_or_skip(name, tls=tls, keepalive=1, folder=folder) as server:
        connection = (
            http.client.HTTPConnection(server.host, server.port, timeout=60)
            if server.ca_file is None
            else http.client.HTTPSConnection(
                server.host,
                server.port,
                timeout=60,
                context=ssl.create_default_context(cafile=server.ca_file),
            )
        )
        with contextlib.closing(connection):
            connection.connect()
            sock = connection.sock
            bodies = []
            for path in ("/ok", "/big"):
                # Before the request: the client may be late in reading what starts the server's clock.
                start = time.monotonic()
                connection.request("GET", path)
                bodies.append(connection.getresponse().read())
            at_the_end = sock.recv(1)
            seconds = time.monotonic() - start
            return Seen(server, bodies, connection.sock is sock, at_the_end, seconds)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[tuple[str, bool], Future[Seen]]]:
    folder = tmp_path_factory.mktemp("servers")
    with ThreadPoolExecutor(len(EACH)) as pool:
        yield {(name, tls): pool.submit(watch, name, tls, folder) for name, tls in EACH}


@pytest.mark.parametrize(("name", "tls"), EACH, ids=[f"{name}-{'tls' if tls else 'plain'}" for name, tls in EACH])
def test_a_server_answers_on_one_connection_and_closes_it_after_its_limit(
    watched: dict[tuple[str, bool], Future[Seen]], name: str, tls: bool
) -> None:
    seen = watched[name, tls].result()
    assert seen.bodies == [b"ok", b"x" * 2**20]
    assert seen.one_connection
    assert seen.at_the_end == b""
    assert seen.server.keepalive >= 1
    # Event loops may fire a timer early by their clock's resolution.
    assert seen.seconds >= seen.server.keepalive - 0.02
    assert seen.server.url == f"{'https' if tls else 'http'}://127.0.0.1:{seen.server.port}"


def test_a_missing_server_skips(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("shutil.which", lambda name, path: None)
    with (
        pytest.raises(pytest.skip.Exception, match="Debian package nodejs"),
        start_or_skip("node", tls=False, keepalive=1, folder=tmp_path),
    ):
        pass


def test_a_server_that_ends_at_once_shows_its_log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = kinds.Kind(lambda: [sys.executable, "-c", "raise SystemExit('no such setting')"], lambda _: [])
    monkeypatch.setitem(kinds.KINDS, "nginx", broken)
    with (
        pytest.raises(RuntimeError, match=r"nginx: ended with 1; its log:\nno such setting"),
        running("nginx", tls=False, keepalive=1, folder=tmp_path),
    ):
        pass
