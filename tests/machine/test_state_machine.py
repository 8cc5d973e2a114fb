"""Random interleavings of all that happens to pools and connections, compared with a simple model after every step.

``POOL_TELEMETRY_TEST_EXAMPLES`` asks for so many interleavings, drawn anew; without it they are few, always the same.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

import pytest
import urllib3
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from opentelemetry import context as otel_context

import pool_telemetry
from misbehaving import Server
from pool_telemetry import _kernel
from tests.live.apart import in_child
from tests.live.wire import ENDED, READABLE, before_sending, wait_for_peer
from tests.machine.model import CLOSING, DEEDS, LOST, TRUNCATED, Conn, Pool, Refused, Request, Socket, Upstream, World
from tests.support import Metrics, Telemetry, check_laws

EXAMPLES = os.environ.get("POOL_TELEMETRY_TEST_EXAMPLES")
NOBODY_LISTENS = 1  # a port
HANG = 0.03  # seconds until a read times out
HANDS = 5  # seconds
EMPTY = 0.001  # seconds until a wait for a connection does
MANAGED = 2  # pools that the manager keeps
MOST_HELD = 4
MOST_FORKS = 2  # they take long
PATHS = ["/ok"] * 8 + ["/status/500", *LOST, *LOST, *CLOSING, "/garbage", "/hang", TRUNCATED]
MIDWAY = ["toggle", "rst", "close", "look", "collect"]
T = TypeVar("T")
SPANS = ["off", "notable", "all"]
REQUESTS = st.builds(
    Request,
    path=st.sampled_from(PATHS),
    retries=st.integers(0, 1),
    is_suppressed=st.sampled_from([False] * 5 + [True]),
    thread=st.sampled_from(["main", "main", "other"]),
    is_streamed=st.sampled_from([False, False, True]),
    before=st.sampled_from([None] * 10 + sorted(DEEDS)),
    midway=st.sampled_from([None] * 12 + MIDWAY),
)


class Servers:
    """What all interleavings talk to."""

    def __init__(self, plain: Server, tls: Server) -> None:
        self._servers = {"plain": plain, "tls": tls}
        self._context = tls.client_context()

    def port(self, name: str) -> int:
        return self._servers[name].port if name in self._servers else NOBODY_LISTENS

    def address(self, name: str) -> tuple[str, str, dict[str, Any]]:
        """Scheme, host and further arguments of a pool's."""
        if name == "tls":
            return "https", "localhost", {"ssl_context": self._context}
        return "http", "127.0.0.1", {}

    def do(self, name: str, sock: Any, deed: str) -> None:
        """A deed to the other end of a socket; returns once it has arrived."""
        port = sock.getsockname()[1]
        (connection,) = [each for each in self._servers[name].connections if each.peer_port == port]
        if deed == "stray":
            connection.send_raw(b"stray")
        else:
            getattr(connection, deed)()
        wait_for_peer(sock, READABLE if deed in ("stray", "close_notify") else ENDED)


class OtherThread:
    """Does one thing at a time, and keeps hold of nothing."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._results: list[Any] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._results.append(job())
            del job
            self._done.put(None)

    def do(self, job: Callable[[], T]) -> T:
        self._jobs.put(job)
        self._done.get()
        result: T = self._results.pop()
        return result

    def end(self) -> None:
        self._jobs.put(None)
        self._thread.join()


class Out:
    """What a checkout has given, and what has not come back: a response that is streamed, or a bare connection."""

    def __init__(self, pool: Pool, conn: Conn, real: Any, path: str | None) -> None:
        self.pool, self.conn, self.real, self.path = pool, conn, real, path
        self.is_in_cycle = self.is_closed = False

    def __repr__(self) -> str:
        return f"<out of {self.pool}: {self.path}>"

    @property
    def is_stream(self) -> bool:
        return self.path is not None


class Pools(RuleBasedStateMachine):
    """The real pools, and those of the model."""

    servers: Servers

    def __init__(self) -> None:
        super().__init__()
        self.upstreams = {name: Upstream(is_refusing=name == "refusing") for name in ("plain", "tls", "refusing")}
        self.world = World([*self.upstreams.values()])
        self.telemetry = Telemetry().__enter__()
        self.manager = urllib3.PoolManager(num_pools=MANAGED)
        self.managed: dict[tuple[str, int, bool], Pool] = {}  # the one that was asked for last comes last
        self.held: dict[Pool, Any] = {}
        self.out: list[Out] = []
        self.other = OtherThread()
        self.forks = 0
        gc.freeze()  # what was there before need not be looked through again and again

    def teardown(self) -> None:
        try:
            self.collect_garbage()
            for out in tuple(self.out):
                self.close(out)
                self.bring_back(out)
            self.clear_manager()
            for pool in tuple(self.held):
                self.forget(pool)
            self.collect_garbage()
            self.books_agree()
            self.look()
            assert not any(upstream.sockets for upstream in self.upstreams.values())
        finally:
            self.held.clear()
            self.out.clear()
            self.manager.clear()
            self.other.end()
            self.telemetry.__exit__(None, None, None)
            gc.collect()

    def name_of(self, upstream: Upstream) -> str:
        return next(name for name, each in self.upstreams.items() if each is upstream)

    # Pools

    @precondition(lambda self: len(self.held) < MOST_HELD)
    @rule(name=st.sampled_from(["plain", "plain", "tls", "refusing"]), size=st.integers(1, 3), is_block=st.booleans())
    def make_pool(self, name: str, size: int, is_block: bool) -> None:
        scheme, host, more = self.servers.address(name)
        kind = {"http": urllib3.HTTPConnectionPool, "https": urllib3.HTTPSConnectionPool}[scheme]
        pool = self.world.add(Pool(self.upstreams[name], size, is_block))
        self.held[pool] = kind(host, self.servers.port(name), maxsize=size, block=is_block, **more)

    @initialize(size=st.integers(1, 3), is_block=st.booleans(), is_installed=st.sampled_from([True, True, False]))
    def begin(self, size: int, is_block: bool, is_installed: bool) -> None:
        self.make_pool("plain", size, is_block)
        if is_installed:
            self.toggle("notable")

    @rule(name=st.sampled_from(["plain", "tls"]), size=st.integers(1, 2), is_block=st.booleans())
    def ask_manager(self, name: str, size: int, is_block: bool) -> None:
        self.ask((name, size, is_block))

    def ask(self, key: tuple[str, int, bool]) -> Any:
        name, size, is_block = key
        if key not in self.managed and any(self.is_in_cycle(pool) for pool in self.managed.values()):
            self.collect_garbage()  # one of them may have to go
        scheme, host, more = self.servers.address(name)
        real = self.manager.connection_from_host(
            host, self.servers.port(name), scheme, pool_kwargs={**more, "maxsize": size, "block": is_block}
        )
        pool = self.managed.pop(key) if key in self.managed else Pool(self.upstreams[name], size, is_block)
        self.managed[key] = self.world.add(pool)
        if len(self.managed) > MANAGED:
            self.world.let_go(self.managed.pop(next(iter(self.managed))))
        return real

    def real(self, pool: Pool) -> Any:
        if pool in self.held:
            return self.held[pool]
        (key,) = [key for key, each in self.managed.items() if each is pool]
        return self.ask(key)

    def pick_any(self) -> bool:
        return any(pool.is_held for pool in self.world.pools)

    def pick(self, data: Any, wanted: Callable[[Pool], bool] = lambda _: True) -> Pool | None:
        found = [pool for pool in self.world.pools if pool.is_held and wanted(pool)]
        # Those that are closed, or cannot connect, are good for little.
        found += [pool for pool in found if pool.is_open and not pool.upstream.is_refusing] * 4
        return data.draw(st.sampled_from(found)) if found else None

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def close_pool(self, data: Any) -> None:
        pool = self.pick(data, lambda pool: pool in self.held)
        if pool is not None:
            self.held[pool].close()
            self.world.close_pool(pool)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def forget_pool(self, data: Any) -> None:
        pool = self.pick(data, lambda pool: pool in self.held and not self.is_in_cycle(pool))
        if pool is not None:
            self.forget(pool)

    def is_in_cycle(self, pool: Pool) -> bool:
        # Of two that are collected together, which goes first is not foretold.
        return any(out.is_in_cycle and out.pool is pool for out in self.out)

    def forget(self, pool: Pool) -> None:
        del self.held[pool]
        self.world.let_go(pool)

    @precondition(lambda self: self.managed)
    @rule()
    def clear_manager(self) -> None:
        self.collect_garbage()
        self.manager.clear()
        while self.managed:
            _, pool = self.managed.popitem()
            self.world.let_go(pool)

    # Requests

    @precondition(lambda self: self.pick_any())
    @rule(data=st.data(), hows=st.lists(REQUESTS, min_size=1, max_size=5))
    def requests(self, data: Any, hows: list[Request]) -> None:
        pool = self.pick(data)
        for how in hows:
            if pool is None or not pool.is_held:
                break
            top = pool.slots[-1] if pool.slots else None
            if how.before is not None and top and top.sock and top.sock.end is None:
                self.act(pool, top.sock, how.before)
            self.make_request(pool, how)
            self.books_agree()
            if not pool.slots:  # of a pool that is closed, or used up, little more is to be had
                break

    def make_request(self, pool: Pool, how: Request) -> None:
        top = pool.slots[-1] if pool.slots else None
        if pool.upstream is self.upstreams["tls"] or (top and top.sock and top.sock.is_shared):
            # Over TLS fin and close_notify come together. And data that has come for another process may be taken for
            # a response's.
            how = replace(how, path="/ok" if how.path in LOST else how.path)
            how = replace(how, midway=None if how.midway == "rst" else how.midway)
        if how.midway == "close" and pool not in self.held:
            how = replace(how, midway=None)
        real = self.real(pool)
        response, told = self.tell_of_sending(real, how)
        conn, expected = None, None
        try:
            conn = self.world.request(pool, how, lambda conn: self.foretell(pool, conn, how.midway))
        except Refused as refused:
            expected = str(refused)
        assert told == expected, f"{how}: {told} instead of {expected}"
        if conn is not None:
            if how.path == TRUNCATED:
                wait_for_peer(response._connection.sock)
            self.out.append(Out(pool, conn, response, how.path))
        elif response is not None:
            assert response.data in (b"ok", b"status")
        del real, response
        if told is not None or how.retries or how.midway is not None:
            self.collect_garbage()  # failures are cycles, which keep the pool

    def tell_of_sending(self, real: Any, how: Request) -> tuple[Any, str | None]:
        if how.midway is not None:
            before_sending(real, lambda conn: self.interfere(real, conn, how.midway))
        try:
            if how.thread == "main":
                return send(real, how)
            return self.other.do(lambda: send(real, how))
        finally:
            vars(real).pop("_make_request", None)

    def interfere(self, real: Any, conn: Any, what: str | None) -> None:
        if what == "toggle":
            self.toggle_really("notable")
        elif what == "rst" and conn.sock is not None:
            self.servers.do("plain", conn.sock, "rst")
        elif what == "close":
            real.close()
        elif what == "look":
            self.read()
        elif what == "collect":
            gc.collect()

    def foretell(self, pool: Pool, conn: Conn, what: str | None) -> None:
        if what == "toggle":
            self.toggle_in_model("notable")
        elif what == "rst" and conn.sock is not None:
            self.world.do(conn.sock, "rst")
        elif what == "close":
            self.world.close_pool(pool)
        elif what == "look":
            self.world.look()
        elif what == "collect":
            self.collect_in_model()

    # What is out

    @precondition(lambda self: self.pick_any())
    @rule(data=st.data())
    def borrow(self, data: Any) -> None:
        pool = self.pick(data)
        if pool is None:
            return
        real, conn, told, expected = self.real(pool), None, None, None
        try:
            conn = real._get_conn(timeout=EMPTY)
        except urllib3.exceptions.HTTPError as error:
            told = type(error).__name__
        try:
            of_model = self.world.check_out(pool)
        except Refused as refused:
            expected = str(refused)
        assert told == expected
        if conn is not None:
            self.out.append(Out(pool, of_model, conn, None))
        del real, conn
        if told is not None:
            self.collect_garbage()

    def pick_out(self, data: Any, wanted: Callable[[Out], bool] = lambda _: True) -> Out | None:
        found = [out for out in self.out if not out.is_in_cycle and wanted(out)]
        return data.draw(st.sampled_from(found)) if found else None

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def give_back(self, data: Any) -> None:
        out = self.pick_out(data, lambda out: out.is_stream or out.pool.is_held)
        if out is not None:
            self.bring_back(out)

    def bring_back(self, out: Out) -> None:
        pool, conn = out.pool, out.conn
        if out.is_stream:
            told = read(out.real, is_closed=out.is_closed)
            if out.path == TRUNCATED and not out.is_closed:
                assert told == "ProtocolError"
                self.world.close(pool, conn, "failed")
            else:
                assert told is None
        elif pool.is_held:
            self.real(pool)._put_conn(out.real)
        self.out.remove(out)
        out.real = None
        if not out.is_stream and not pool.is_held:
            self.world.forget(pool, conn, "abandoned" if conn.due == self.world.installs else "unknown")
            return
        self.world.put(pool, conn)
        if out.is_stream:
            self.world.end_stream(pool)
        self.collect_garbage()

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def close_what_is_out(self, data: Any) -> None:
        out = self.pick_out(data)
        if out is not None:
            self.close(out)

    def close(self, out: Out) -> None:
        out.real.close()
        out.is_closed = True
        reason = (
            "abandoned" if out.is_stream else "unknown" if out.pool.is_open and out.pool.is_alive else "pool_closed"
        )
        self.world.close(out.pool, out.conn, reason)

    @precondition(lambda self: self.out)
    @rule(data=st.data(), in_cycle=st.booleans())
    def lose(self, data: Any, in_cycle: bool) -> None:
        out = self.pick_out(data, lambda out: out.pool.is_held)
        if out is None:
            return
        if in_cycle:
            cycle: list[Any] = [out.real]
            cycle.append(cycle)
            out.real, out.is_in_cycle = None, True
        else:
            out.real = None
            self.lose_in_model(out)

    def lose_in_model(self, out: Out) -> None:
        self.out.remove(out)
        is_due = out.conn.due == self.world.installs
        # A response closes its connection when it is collected; in a cycle the connection's end is told before that.
        is_closing = out.is_stream and not out.is_in_cycle
        self.world.forget(out.pool, out.conn, "abandoned" if is_closing or is_due else "unknown")
        if out.is_stream:
            self.world.end_stream(out.pool)

    @rule()
    def collect_garbage(self) -> None:
        gc.collect()
        self.collect_in_model()

    def collect_in_model(self) -> None:
        for out in [out for out in self.out if out.is_in_cycle]:
            self.lose_in_model(out)

    @precondition(lambda self: any(not out.is_stream for out in self.out))
    @rule(data=st.data(), path=st.sampled_from(["/ok", "/ok", "/close"]))
    def use_by_hand(self, data: Any, path: str) -> None:
        """A bare connection, which opens a socket by itself, and again after the response has closed it."""
        out = self.pick_out(
            data,
            lambda out: (
                not out.is_stream
                and not out.pool.upstream.is_refusing
                and (out.conn.sock is None or out.conn.sock.end is None)
            ),
        )
        if out is None:
            return
        out.real.timeout = HANDS  # urllib3 1 leaves it to the pool
        out.real.request("GET", path)
        response = out.real.getresponse()
        assert (response.data if hasattr(response, "data") else response.read()) == b"ok"  # as of urllib3 2, or 1
        if out.conn.sock is None:
            self.world.connect(out.pool, out.conn)
        assert out.conn.sock is not None
        out.conn.sock.requests += 1
        if path in CLOSING:
            self.world.close(out.pool, out.conn, "response_close")

    # What happens to sockets

    def sockets(self, *, is_out: bool) -> list[tuple[Pool, Socket]]:
        """Those that nothing has happened to."""
        conns = [(pool, conn) for pool in self.world.pools if pool.is_held for conn in pool.idle()]
        if is_out:
            conns += [(out.pool, out.conn) for out in self.out if not out.is_in_cycle]
        return [(pool, conn.sock) for pool, conn in conns if conn.sock is not None and conn.sock.end is None]

    def real_conn(self, pool: Pool, sock: Socket) -> Any:
        for out in self.out:
            if out.conn is sock.conn:
                return out.real._connection if out.is_stream else out.real
        return self.real(pool).pool.queue[pool.slots.index(sock.conn)]

    @precondition(lambda self: self.sockets(is_out=True))
    @rule(data=st.data(), deed=st.sampled_from(sorted(DEEDS)))
    def server_acts(self, data: Any, deed: str) -> None:
        found = self.sockets(is_out=True)
        if found:
            pool, sock = found[data.draw(st.integers(0, len(found) - 1))]
            self.act(pool, sock, deed)

    def act(self, pool: Pool, sock: Socket, deed: str) -> None:
        name = self.name_of(pool.upstream)
        if deed == "close_notify" and name == "plain":
            deed = "fin"
        self.servers.do(name, self.real_conn(pool, sock).sock, deed)
        self.world.do(sock, deed)

    @precondition(lambda self: self.sockets(is_out=False))
    @rule(data=st.data(), is_taken=st.booleans())
    def application_closes_what_is_pooled(self, data: Any, is_taken: bool) -> None:
        found = self.sockets(is_out=False)
        if found:
            pool, sock = found[data.draw(st.integers(0, len(found) - 1))]
            conn = self.real_conn(pool, sock)
            if is_taken:
                taken, conn.sock = conn.sock, None
                taken.close()
            else:
                conn.close()
            self.world.close(pool, sock.conn, "unknown")

    @precondition(lambda self: self.sockets(is_out=False))
    @rule(data=st.data())
    def application_looks_for_drops(self, data: Any) -> None:
        conns = [(pool, conn) for pool in self.world.pools if pool.is_held for conn in pool.idle()]
        if conns:
            pool, conn = conns[data.draw(st.integers(0, len(conns) - 1))]
            real = self.real(pool).pool.queue[pool.slots.index(conn)]
            check = vars(urllib3.connectionpool)["is_connection_dropped"]
            assert check(real) == (conn.sock is None or conn.sock.end is not None)

    # Being watched

    @rule(spans=st.sampled_from(SPANS), is_wanted=st.sampled_from([True, False]))
    def toggle_now_and_then(self, spans: str, is_wanted: bool) -> None:
        if is_wanted or not self.world.is_installed:
            self.toggle(spans)

    def toggle(self, spans: str) -> None:
        self.toggle_really(spans)
        self.toggle_in_model(spans)

    def toggle_really(self, spans: str) -> None:
        if self.world.is_installed:
            pool_telemetry.uninstall()
        else:
            self.telemetry.install(metrics="all", spans=spans)

    def toggle_in_model(self, spans: str) -> None:
        if self.world.is_installed:
            self.world.uninstall()
        else:
            self.world.install(has_spans=spans != "off")

    def read(self) -> Any:
        return self.telemetry.collect() if self.world.is_installed else pool_telemetry.snapshot()

    @rule()
    def look(self) -> None:
        found = {(each.scheme, each.port): each for each in pool_telemetry.snapshot().upstreams}
        self.world.look()
        for name, upstream in self.upstreams.items():
            expected = self.world.figures(upstream, has_states=_kernel.HAS_TCP_INFO)
            del expected["pools"], expected["sizes"]  # a closed pool is shown as long as something of it is open
            shown = found.get((self.servers.address(name)[0], self.servers.port(name)))
            if shown is None:
                assert not upstream.creations
            else:
                assert_equal(of_snapshot(shown), expected, name)

    @invariant()
    def books_agree(self) -> None:
        metrics = self.telemetry.collect()
        if not self.world.is_installed:
            assert not metrics.points("urllib3.pool.checkouts")
            return
        for name, upstream in self.upstreams.items():
            port = self.servers.port(name)
            expected = self.world.figures(upstream, has_states=_kernel.HAS_TCP_INFO)
            del expected["adopted"]  # which the snapshot alone tells
            expected |= self.world.samples(upstream)
            told = {**of_metrics(metrics, port), **of_samples(metrics, port), **self.of_spans(port)}
            assert_equal(told, expected, name)
            check_laws(
                metrics,
                checkouts=upstream.checkouts.total(),
                adopted=upstream.adopted,
                unsampled=upstream.unsampled,
                server__port=port,
            )

    def of_spans(self, port: int) -> dict[str, int]:
        names = {"dropped spans": "HTTP connection_dropped", "set-up spans": "HTTP connection_setup"}
        return {
            key: sum((span.attributes or {})["server.port"] == port for span in self.telemetry.named(name))
            for key, name in names.items()
        }

    # A child

    @precondition(lambda self: hasattr(os, "fork") and self.forks < MOST_FORKS)
    @rule(data=st.data(), times=st.integers(1, 3))
    def fork(self, data: Any, times: int) -> None:
        # What is encrypted two processes cannot share.
        pool = self.pick(data, lambda pool: not pool.idle() or pool.upstream is self.upstreams["plain"])
        if pool is None or self.is_in_cycle(pool):
            return
        inherited = pool.slots[-1].sock if pool.is_open and pool.slots and pool.slots[-1] else None
        self.forks += 1
        in_child(lambda: self.live_on_as_child(pool, times))
        if inherited is not None and inherited.end is None:
            inherited.requests += times
            inherited.is_shared = True

    def live_on_as_child(self, pool: Pool, times: int) -> None:
        self.world.begin_anew()
        if self.world.is_installed:
            # The SDK's histograms hold what the parent's did.
            metrics = self.telemetry.collect()
            for name in self.upstreams:
                figures = of_metrics(metrics, self.servers.port(name))
                assert not any(figures.values()), figures
            self.toggle("off")
        self.telemetry = Telemetry()
        self.toggle("notable")
        for _ in range(times):
            self.make_request(pool, Request())
            self.books_agree()
        self.look()


def send(pool: Any, how: Request) -> tuple[Any, str | None]:
    """A real request; gives its response, or the name of what it has failed with."""
    options: dict[str, Any] = {"enforce_content_length": True}
    if how.path == "/hang":
        options["timeout"] = urllib3.Timeout(read=HANG)
    with contextlib.ExitStack() as stack:
        if how.is_suppressed:
            key = otel_context._SUPPRESS_INSTRUMENTATION_KEY
            stack.callback(otel_context.detach, otel_context.attach(otel_context.set_value(key, True)))
        try:
            response = pool.urlopen(
                "GET",
                how.path,
                retries=urllib3.Retry(how.retries, backoff_factor=0) if how.retries else False,
                preload_content=not how.is_streamed,
                pool_timeout=EMPTY,
                **options,
            )
        except urllib3.exceptions.HTTPError as error:
            return None, type(error).__name__
    return response, None


def read(response: Any, *, is_closed: bool) -> str | None:
    """Reads a response to its end, which brings its connection back; gives the name of what went wrong."""
    try:
        if not is_closed:
            assert response.read() in (b"ok", b"status")
    except urllib3.exceptions.HTTPError as error:
        return type(error).__name__
    response.release_conn()
    return None


def assert_equal(told: dict[str, Any], expected: dict[str, Any], of: str) -> None:
    assert told.keys() == expected.keys()
    wrong = [f"{key}: {told[key]} instead of {expected[key]}" for key in told if told[key] != expected[key]]
    assert not wrong, f"{of}, " + ", ".join(wrong)


def of_metrics(metrics: Metrics, port: int) -> dict[str, Any]:
    """The figures of an upstream as one collection tells them; what is 0 is left out."""
    by, value = metrics.by, metrics.value
    name = "urllib3.pool.dropped_connections"
    drops = Counter(
        {
            (
                point.attributes["urllib3.connection.drop.reason"],
                point.attributes["urllib3.connection.drop.phase"],
            ): point.value
            for point in metrics.points(name, server__port=port)
        }
    )
    states = Counter(
        {
            (point.attributes["http.connection.state"], point.attributes.get("network.connection.state")): point.value
            for point in metrics.points("urllib3.pool.socket.count", server__port=port)
        }
    )
    return {
        "checkouts": by("urllib3.pool.checkouts", "outcome", server__port=port),
        "drops": +drops,
        "closed": by("urllib3.pool.closed_connections", "reason", server__port=port),
        "opened": value("urllib3.pool.opened_connections", server__port=port),
        "leaked": value("urllib3.pool.leaked_connections", server__port=port),
        "creations": value("urllib3.pool.creations", server__port=port),
        "peak": value("urllib3.pool.active.peak", server__port=port),
        "pending": value("urllib3.pool.pending_requests", server__port=port),
        "open": by("http.client.open_connections", "http.connection.state", server__port=port),
        "states": +states,
        "pools": value("urllib3.pool.count", server__port=port),
        "sizes": by("urllib3.pool.size", "block", server__port=port),
    }


def of_samples(metrics: Metrics, port: int) -> dict[str, Any]:
    """How many durations of which kind were kept."""
    set_ups: Counter[tuple[str, bool]] = Counter()
    for point in metrics.points("urllib3.connection.setup.duration", server__port=port):
        set_ups[point.attributes["urllib3.connection.setup.cause"], "error.type" in point.attributes] += point.count
    idle_times: Counter[str] = Counter()
    for point in metrics.points("urllib3.connection.idle.duration", server__port=port):
        idle_times[point.attributes["urllib3.pool.checkout.outcome"]] += point.count
    return {
        "set-ups": set_ups,
        "idle times": idle_times,
        "waits": metrics.count("urllib3.pool.wait.duration", server__port=port),
    }


def of_snapshot(shown: Any) -> dict[str, Any]:
    """The same figures, and the adopted, as a snapshot tells them."""
    connections = [connection for pool in shown.pools for connection in pool.connections]
    return {
        "checkouts": +Counter(shown.checkouts),
        "drops": +Counter(
            {(reason, phase): count for reason, phases in shown.drops.items() for phase, count in phases.items()}
        ),
        "closed": +Counter(shown.closed_connections),
        "opened": shown.opened_connections,
        "adopted": shown.adopted_connections,
        "leaked": shown.leaked_connections,
        "creations": shown.pools_created,
        "peak": shown.active_peak,
        "pending": shown.pending_requests,
        "open": Counter(connection.state for connection in connections),
        "states": Counter((connection.state, connection.tcp_state) for connection in connections),
    }


@pytest.fixture
def servers() -> Iterator[Servers]:
    with Server() as plain, Server(tls="1.3") as tls:
        yield Servers(plain, tls)


@pytest.fixture
def garbage_is_collected_when_it_is_said() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()
    gc.unfreeze()


@pytest.mark.timeout(0 if EXAMPLES else 600)
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning", "ignore:.*fork:DeprecationWarning")
@pytest.mark.usefixtures("garbage_is_collected_when_it_is_said")
def test_whatever_happens_the_books_agree_with_a_simple_model(
    servers: Servers, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "urllib3")  # pytest keeps what is logged: exceptions, and pools with them

    class OfThese(Pools):
        pass

    OfThese.servers = servers
    run_state_machine_as_test(
        OfThese,
        settings=settings(
            max_examples=int(EXAMPLES or 60),
            stateful_step_count=50,
            deadline=None,
            derandomize=EXAMPLES is None,
            database=None,
            print_blob=True,
            # To make an interleaving simpler takes minutes.
            phases=[Phase.generate, Phase.shrink] if EXAMPLES else [Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
