"""What is told of real servers' idle limits: the right reason and, by the kernel's own clock, the right age, always.

All servers run at the same time, and so does their idleness; requests are made one at a time, so that this process
does not hold itself up. No round is repeated.
"""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import urllib3

from tests.live.real_servers import NAMES, RealServer, start_or_skip
from tests.live.wire import pooled
from tests.support import Metrics, Telemetry, check_laws

KEEPALIVE = 1
WITHIN = 0.02  # seconds
LATE = 0.3
ROUNDS = 20
# gunicorn looks for idle connections a second after it last had anything to do: one connection at a time shows its
# limit, several at a time show their distance from the last of them. So there are more of it, with fewer rounds each.
COPIES = {"gunicorn": 4}
EACH = [(name, is_tls) for name in NAMES for is_tls in (False, True)]
# asyncio sends a close_notify and keeps the FIN back until the client answers.
NOTIFIERS = {("uvicorn", True), ("hypercorn", True)}


def read_at_once(pool: Any) -> None:
    assert pool.request("GET", "/ok").data == b"ok"


def read_streamed(pool: Any) -> None:
    response = pool.request("GET", "/big", preload_content=False)
    assert sum(len(part) for part in response.stream(50_000)) == 2**20


def read_late(pool: Any) -> Callable[[], bytes]:
    response = pool.request("GET", "/ok", preload_content=False)
    read: Callable[[], bytes] = response.read
    return read


WAYS: dict[str, Callable[[Any], Callable[[], bytes] | None]] = {
    "at once": read_at_once,
    "streamed": read_streamed,
    "late": read_late,
}


@dataclass(frozen=True)
class Round:
    """One connection left idle until the server ended it, by this test's own clock, in seconds."""

    way: str
    port: int
    took: float
    """From before the last request to its response, as far as it was read then."""
    late: float
    """From then to the connection's return; 0 unless the body was left unread."""
    ended: float
    """From the response until this test noticed the server's end."""
    told: dict[str, Any]


_one_at_a_time = threading.Lock()


def idle_rounds(server: RealServer, way: str, count: int) -> list[Round]:
    """Opens so many connections, leaves them idle until the server has ended all, and takes each once more."""
    with ExitStack() as stack:
        trust: dict[str, Any] = {} if server.ca_file is None else {"ca_certs": server.ca_file}
        pools = [stack.enter_context(urllib3.connection_from_url(server.url, **trust)) for _ in range(count)]
        rest, took, responded = [], [], []
        with _one_at_a_time:
            for pool in pools:
                pool.request("GET", "/ok")  # what is timed then is no set-up
                started = time.monotonic()
                rest.append(WAYS[way](pool))
                responded.append(time.monotonic())
                took.append(responded[-1] - started)
        late = [0.0] * count
        if way == "late":
            time.sleep(LATE)
        for index, read in enumerate(rest):
            if read is not None:
                assert read() == b"ok"
                late[index] = time.monotonic() - responded[index]
        socks = [pooled(pool)[0].sock for pool in pools]
        ports = [sock.getsockname()[1] for sock in socks]
        ends = watch(socks, server.keepalive + 5)
        time.sleep(0.05)  # for a FIN that follows a close_notify
        with _one_at_a_time:
            for pool in pools:
                assert pool.request("GET", "/ok").status == 200
        return [
            Round(way, port, took[index], late[index], ends[index] - responded[index], {})
            for index, port in enumerate(ports)
        ]


def watch(socks: list[Any], seconds: float) -> list[float]:
    """When each became readable, by the monotonic clock; only looks."""
    poll = select.poll()
    waiting = {sock.fileno(): index for index, sock in enumerate(socks)}
    for descriptor in waiting:
        poll.register(descriptor, select.POLLIN)
    ends = [0.0] * len(socks)
    deadline = time.monotonic() + seconds
    while waiting:
        events = poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
        now = time.monotonic()
        assert events, f"{len(waiting)} connections were not ended"
        for descriptor, _ in events:
            poll.unregister(descriptor)
            ends[waiting.pop(descriptor)] = now
    return ends


@dataclass(frozen=True)
class Seen:
    server: RealServer
    rounds: list[Round]
    metrics: Metrics


def measure(started: list[Future[RealServer]]) -> tuple[list[RealServer], list[Round]]:
    """All rounds of one kind of server."""
    servers = [each.result() for each in started]
    if len(servers) == 1:
        with ThreadPoolExecutor(len(WAYS)) as threads:
            parts = list(threads.map(lambda way: idle_rounds(servers[0], way, ROUNDS), WAYS))
    else:

        def one_by_one(server: RealServer) -> list[Round]:
            each = {"at once": ROUNDS // len(servers), "streamed": 1, "late": 1}
            found = []
            for way in WAYS:
                for _ in range(each[way]):
                    found += idle_rounds(server, way, 1)
                    time.sleep(0.1)  # it has to do with the connection that was just closed, and is not to do so then
            return found

        with ThreadPoolExecutor(len(servers)) as threads:
            parts = list(threads.map(one_by_one, servers))
    return servers, [found for part in parts for found in part]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, bool], Future[Seen]]:
    folder: Path = tmp_path_factory.mktemp("servers")
    started: dict[tuple[str, bool], list[Future[RealServer]]] = {}
    with ThreadPoolExecutor(64) as threads, Telemetry() as telemetry:
        stacks: list[ExitStack] = []

        def start(name: str, is_tls: bool) -> RealServer:
            stack = ExitStack()
            stacks.append(stack)
            return stack.enter_context(start_or_skip(name, tls=is_tls, keepalive=KEEPALIVE, folder=folder))

        try:
            for name, is_tls in EACH:
                started[name, is_tls] = [threads.submit(start, name, is_tls) for _ in range(COPIES.get(name, 1))]
            for copies in started.values():
                for each in copies:
                    each.exception()  # all have started, or failed to, before anything is timed
            telemetry.install()
            measured = {key: threads.submit(measure, copies) for key, copies in started.items()}
            for future in measured.values():
                future.exception()
            metrics = telemetry.collect()
            told = {
                (span.attributes["server.port"], span.attributes["network.local.port"]): dict(span.attributes)
                for span in telemetry.named("HTTP connection_dropped")
                if span.attributes
            }

            def complete(future: Future[Any]) -> Seen:
                servers, rounds = future.result()
                ports = [server.port for server in servers]
                return Seen(
                    servers[0],
                    [
                        replace(each, told=next(told[port, each.port] for port in ports if (port, each.port) in told))
                        for each in rounds
                    ],
                    metrics,
                )

            results = {key: threads.submit(complete, future) for key, future in measured.items()}
            for result in results.values():
                result.exception()
        finally:
            list(threads.map(ExitStack.close, stacks))
    return results


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("name", "is_tls"), EACH, ids=[f"{name}-{'tls' if tls else 'plain'}" for name, tls in EACH])
def test_reason_and_age_are_right_every_time(
    seen: dict[tuple[str, bool], Future[Seen]], name: str, is_tls: bool, way: str
) -> None:
    result = seen[name, is_tls].result()
    limit = result.server.keepalive
    rounds = [each for each in result.rounds if each.way == way]
    assert len(rounds) >= (ROUNDS if way == "at once" or name not in COPIES else COPIES[name])
    reason, state = ("close_notify", "established") if (name, is_tls) in NOTIFIERS else ("fin", "close_wait")
    for each in rounds:
        assert each.told["urllib3.connection.drop.reason"] == reason
        assert each.told["urllib3.connection.drop.phase"] == "checkout"
        assert each.told["network.connection.state"] == state
        assert each.told["urllib3.connection.request.count"] == 2
        age = each.told["urllib3.connection.remote_close.duration"]
        # Of TLS the age may count from the return here: a lower bound, by what the return came late.
        lowest = limit - WITHIN - (each.late if is_tls else 0)
        highest = limit + WITHIN
        if each.took > WITHIN / 2:
            # This machine kept us from reading, or the server from noticing that all was written, which is when its
            # limit begins.
            lowest -= each.took
            highest += each.took
        # Where the server was kept from closing in time, this test has noticed it late as well.
        highest = max(highest, each.ended + each.took + WITHIN)
        assert lowest <= age <= highest, each


def test_the_laws_hold_for_all_of_them(seen: dict[tuple[str, bool], Future[Seen]]) -> None:
    results = [future.result() for future in seen.values() if future.exception() is None]
    if not results:
        pytest.skip("missing: any of the real servers")
    metrics = results[0].metrics
    check_laws(metrics)
    rounds = sum(len(result.rounds) for result in results)
    assert metrics.value("urllib3.pool.dropped_connections") == rounds
    assert metrics.by("urllib3.pool.checkouts", "outcome") == {"new": rounds, "reused": rounds, "replaced": rounds}
    assert metrics.count("urllib3.connection.remote_close.duration") == rounds
