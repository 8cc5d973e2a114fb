"""A wait for a connection, and what only looks like one: a thread that is held up while a connection lies ready."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import urllib3
from urllib3.exceptions import ReadTimeoutError

import pool_telemetry
from misbehaving import Server
from pool_telemetry import _urllib3
from pool_telemetry._snapshot import Durations
from tests.live.wire import pooled, wait_for_peer
from tests.support import Telemetry, check_laws

HOLD_UP = 0.05
Deed = Callable[[], object]


def nothing() -> None:
    """For a queue that holds nobody up."""


class SlowQueue(queue.LifoQueue):  # type: ignore[type-arg]  # urllib3 makes it without a type
    """Holds a thread up, as a busy machine does: once, before or after it takes what lies there."""

    def __init__(self, maxsize: int = 0) -> None:
        super().__init__(maxsize)
        self.before: Deed = nothing
        self.after: Deed = nothing

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        before, self.before = self.before, nothing
        after, self.after = self.after, nothing
        before()
        item = super().get(block, timeout)
        after()
        return item


class Unreadable:
    """A queue of another make, which nobody can look into."""

    def __init__(self, maxsize: int) -> None:
        self._queue = SlowQueue(maxsize)
        self.get, self.put, self.maxsize = self._queue.get, self._queue.put, maxsize


class SlowPool(urllib3.HTTPConnectionPool):
    QueueCls = SlowQueue


def pool_of(server: Server, maxsize: int = 1) -> Any:
    return SlowPool(server.host, server.port, maxsize=maxsize, block=True)


def hold_up() -> None:
    time.sleep(HOLD_UP)


def stream(pool: Any, path: str = "/ok", **options: Any) -> Any:
    return pool.urlopen("GET", path, preload_content=False, **options)


def give_back(response: Any) -> None:
    response.read()
    response.release_conn()


def in_a_thread(deed: Deed) -> None:
    """To its end."""
    thread = threading.Thread(target=deed)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()


def waits(telemetry: Telemetry, number: int) -> Durations:
    """So many were told, and none that was long enough for a span was told without one."""
    (upstream,) = pool_telemetry.snapshot().upstreams
    told, metrics = upstream.wait_seconds, telemetry.collect()
    assert told is not None
    assert told.count == metrics.count("urllib3.pool.wait.duration") == number
    assert told.total == pytest.approx(metrics.sum("urllib3.pool.wait.duration"))
    check_laws(metrics, checkouts=number)
    assert bool(telemetry.named("HTTP wait_for_connection")) == (told.maximum > 0)
    return told


def lie_there_fresh(pool: Any, _: Server) -> int:
    """Nothing has been connected yet."""
    return 0


def lie_there_alive(pool: Any, _: Server) -> int:
    pool.urlopen("GET", "/ok")
    return 1


def lie_there_closed(pool: Any, _: Server) -> int:
    pool.urlopen("GET", "/close")
    return 1


def lie_there_dropped(pool: Any, _: Server) -> int:
    pool.urlopen("GET", "/fin/0")
    wait_for_peer(pooled(pool)[-1].sock)
    return 1


def lie_there_empty(pool: Any, _: Server) -> int:
    """A failed request has left a ``None``."""
    with pytest.raises(urllib3.exceptions.ProtocolError):
        pool.urlopen("GET", "/garbage", retries=False)
    return 1


LYING = [lie_there_fresh, lie_there_alive, lie_there_closed, lie_there_dropped, lie_there_empty]


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("lie_there", LYING)
def test_a_thread_that_is_held_up_while_something_lies_ready_has_not_waited(
    telemetry: Telemetry, lie_there: Callable[[Any, Server], int], moment: str
) -> None:
    telemetry.install(wait_threshold=0)
    with Server() as server, pool_of(server) as pool:
        before = lie_there(pool, server)
        setattr(pool.pool, moment, hold_up)
        pool.urlopen("GET", "/ok")
        assert waits(telemetry, before + 1).maximum == 0


@pytest.mark.parametrize("lie_there", LYING)
def test_what_others_take_afterwards_makes_it_no_wait(
    telemetry: Telemetry, lie_there: Callable[[Any, Server], int]
) -> None:
    telemetry.install(wait_threshold=0)
    with Server() as server, pool_of(server, 2) as pool:
        before = lie_there(pool, server)
        held: list[Any] = []
        pool.pool.after = lambda: in_a_thread(lambda: held.append(stream(pool)))  # the last that lay there
        pool.urlopen("GET", "/ok")
        assert waits(telemetry, before + 2).maximum == 0
        give_back(held.pop())


def test_what_others_take_and_give_back_meanwhile_makes_it_no_wait(telemetry: Telemetry) -> None:
    telemetry.install(wait_threshold=0)
    with Server() as server, pool_of(server, 2) as pool:
        for response in [stream(pool), stream(pool)]:
            give_back(response)
        # What it gets lies there only since then; but it could have had another all the time.
        pool.pool.before = lambda: in_a_thread(lambda: pool.urlopen("GET", "/ok"))
        pool.urlopen("GET", "/ok")
        assert waits(telemetry, 4).maximum == 0


@pytest.mark.parametrize("lie_there", [lie_there_fresh, lie_there_alive, lie_there_closed, lie_there_empty])
@pytest.mark.parametrize("comes_back", ["alive", "closed", "failed"])
def test_who_loses_what_lay_ready_to_another_thread_has_waited(
    telemetry: Telemetry, lie_there: Callable[[Any, Server], int], comes_back: str
) -> None:
    telemetry.install(wait_threshold=0)

    def take(others: list[threading.Thread]) -> None:
        if comes_back == "failed":
            taken = threading.Event()
            pool.pool.after = taken.set

            def fail() -> None:
                with pytest.raises(ReadTimeoutError):
                    pool.urlopen("GET", "/hang", retries=False, timeout=0.2)

            others.append(threading.Thread(target=fail))
            others[0].start()
            assert taken.wait(60)
        else:
            held: list[Any] = []
            in_a_thread(lambda: held.append(stream(pool, "/close" if comes_back == "closed" else "/ok")))
            others.append(threading.Timer(0.2, give_back, held))
            others[0].start()

    with Server() as server, pool_of(server) as pool:
        before = lie_there(pool, server)
        others: list[threading.Thread] = []
        pool.pool.before = lambda: take(others)
        began = time.monotonic()
        pool.urlopen("GET", "/ok")
        took = time.monotonic() - began
        others[0].join()
        told = waits(telemetry, before + 2)
        assert 0.15 <= told.maximum == told.total <= took
        (span,) = telemetry.named("HTTP wait_for_connection")
        assert span.attributes is not None
        assert span.attributes["urllib3.pool.checkout.outcome"] == ("reused" if comes_back == "alive" else "new")


def test_who_finds_nothing_has_waited_until_something_came(telemetry: Telemetry) -> None:
    telemetry.install(wait_threshold=0)
    with Server() as server, pool_of(server) as pool:
        held = stream(pool)
        timer = threading.Timer(0.1, give_back, [held])
        timer.start()
        began = time.monotonic()
        pool.urlopen("GET", "/ok")
        took = time.monotonic() - began
        timer.join()
        told = waits(telemetry, 2)
        assert 0.05 <= told.maximum == told.total <= took


def test_in_a_queue_that_cannot_be_read_all_that_a_checkout_takes_counts(telemetry: Telemetry) -> None:
    telemetry.install(wait_threshold=0)
    with Server() as server:
        pool: Any = type("OddPool", (SlowPool,), {"QueueCls": Unreadable})(server.host, server.port, block=True)
        pool.pool._queue.before = hold_up
        pool.urlopen("GET", "/ok")
        assert waits(telemetry, 1).maximum >= HOLD_UP
        pool.close()


def test_the_length_of_a_checkout_span_is_what_the_checkout_took(telemetry: Telemetry) -> None:
    telemetry.install(spans="all")
    with Server() as server, pool_of(server) as pool:
        pool.urlopen("GET", "/ok")
        pool.pool.before = hold_up
        with telemetry.tracer.start_as_current_span("request"):
            pool.urlopen("GET", "/ok")
    (span,) = telemetry.named("HTTP connection_checkout")
    assert span.end_time is not None
    assert span.start_time is not None
    assert (span.end_time - span.start_time) / 1e9 >= HOLD_UP
    assert telemetry.named("HTTP wait_for_connection") == []


def test_to_look_whether_something_lies_ready_waits_for_no_mutex() -> None:
    pool: Any = SlowPool("127.0.0.1", 1, block=True)
    found: list[bool] = []
    with pool.pool.mutex:
        in_a_thread(lambda: found.append(_urllib3.has_any_pooled(pool)))
    assert found == [True]
    pool.close()
    assert not _urllib3.has_any_pooled(pool)
