"""In company: other libraries, span processors, signal handlers and applications that do unusual things around us."""

from __future__ import annotations

import copy
import functools
import gc
import pickle
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest
import urllib3
import urllib3.connection
import urllib3.connectionpool
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor

import pool_telemetry
from misbehaving import Server
from pool_telemetry import _context, _instrument, _kernel, _ledger, _urllib3
from pool_telemetry._facts import CheckedOut, PoolSeen
from pool_telemetry._marks import record_of
from pool_telemetry._patch import Patches
from tests.live.apart import run_apart
from tests.live.wire import causes, drops, pooled, wait_for_peer
from tests.programs import run
from tests.support import Metrics, Telemetry, check_laws

SETUP_SPAN = "HTTP connection_setup"


#: Connections that an exception takes from their pool end by garbage collection, which warns of them.
loses_connections = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
_pools: list[urllib3.HTTPConnectionPool] = []


@pytest.fixture(autouse=True)
def nothing_is_left_open() -> Iterator[None]:
    yield
    while _pools:
        _pools.pop().close()
    gc.collect()


@pytest.fixture(autouse=True)
def no_fault_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    faults = [record.getMessage() for record in caplog.get_records("call") if record.name == "pool_telemetry"]
    assert not faults


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


def pool_of(server: Server, **options: Any) -> urllib3.HTTPConnectionPool:
    _pools.append(urllib3.HTTPConnectionPool(server.host, server.port, **options))
    return _pools[-1]


def get(pool: urllib3.HTTPConnectionPool, path: str = "/ok", **options: Any) -> int:
    return int(pool.request("GET", path, **options).status)


def leave_a_dropped_connection(pool: urllib3.HTTPConnectionPool) -> Any:
    """What lies in the pool then is a drop to its next checkout."""
    get(pool, "/fin/0")
    (conn,) = pooled(pool)
    wait_for_peer(conn.sock)
    return conn


def outcomes(metrics: Metrics) -> dict[str, float]:
    return metrics.by("urllib3.pool.checkouts", "outcome")


def closes(metrics: Metrics) -> dict[str, float]:
    return metrics.by("urllib3.pool.closed_connections", "reason")


def is_dropped(conn: Any) -> bool:
    return bool(vars(urllib3.connectionpool)["is_connection_dropped"](conn))


def the_ledger() -> Any:
    assert _instrument._ledger is not None
    return _instrument._ledger


# Other libraries


# In programs of their own: what they put in stands there before anything of ours is imported.


def test_losses_and_announced_closes_are_told_under_a_foreign_getresponse() -> None:
    """What Sentry does: a plain closure in place of the function, which tells nobody what it has replaced."""
    run(
        """
        import http.client

        real = http.client.HTTPConnection.getresponse

        def closure(self, *args, **kwargs):
            response = real(self, *args, **kwargs)
            return response

        http.client.HTTPConnection.getresponse = closure

        import urllib3
        from misbehaving import Server
        from tests.live.wire import causes, drops
        from tests.support import Telemetry, check_laws

        expected = {"/lost": {"lost_race": 1}, "/lost-rst": {"lost_race": 1}, "/close": {"response_close": 2}}
        for path, told in expected.items():
            with Telemetry() as telemetry, Server() as server:
                telemetry.install()
                pool = urllib3.HTTPConnectionPool(server.host, server.port)
                assert [pool.request("GET", path, retries=1).status for _ in range(2)] == [200, 200]
                metrics = telemetry.collect()
                check_laws(metrics, checkouts=server.books.requests)
                assert metrics.by("urllib3.pool.closed_connections", "reason") == told, path
                if path != "/close":
                    assert drops(metrics) == {("fin" if path == "/lost" else "reset", "request"): 1}
                    assert causes(metrics) == {"new": 1, "lost_race": 1}
                pool.close()
        """
    )


def test_installing_over_a_mocked_urlopen_works() -> None:
    run(
        """
        from unittest import mock

        import urllib3
        import pool_telemetry

        with mock.patch("urllib3.connectionpool.HTTPConnectionPool.urlopen"):
            pool_telemetry.install()
            pool_telemetry.uninstall()
            from tests.support import Telemetry, check_laws
            telemetry = Telemetry()
            telemetry.install()

        from misbehaving import Server

        with telemetry, Server() as server:
            pool = urllib3.HTTPConnectionPool(server.host, server.port)
            assert pool.request("GET", "/close").status == 200
            metrics = telemetry.collect()
            check_laws(metrics, checkouts=1)
            assert metrics.by("urllib3.pool.closed_connections", "reason") == {"response_close": 1}
            pool.close()
        """
    )


def test_a_provider_given_after_one_that_does_nothing_gets_the_metrics(telemetry: Telemetry, server: Server) -> None:
    does_nothing = NoOpMeterProvider()
    pool_telemetry.install(meter_provider=does_nothing)
    pool_telemetry.uninstall()
    telemetry.install()
    get(pool_of(server))
    check_laws(telemetry.collect(), checkouts=1)


def test_a_global_provider_set_after_one_that_does_nothing_gets_the_metrics() -> None:
    printed = run(
        """
        import urllib3
        from opentelemetry import metrics
        import pool_telemetry
        from misbehaving import Server
        from tests.support import Telemetry

        does_nothing = metrics.NoOpMeterProvider()
        pool_telemetry.install(meter_provider=does_nothing)
        pool_telemetry.uninstall()
        telemetry = Telemetry()
        metrics.set_meter_provider(telemetry.meter_provider)
        pool_telemetry.install()
        with Server() as server:
            urllib3.HTTPConnectionPool(server.host, server.port).request("GET", "/ok")
            print(telemetry.collect().value("urllib3.pool.checkouts"))
        """
    )
    assert printed == "1.0\n"


# Span processors


class Shipper(SpanProcessor):
    """Sends each span that ends by a request of its own, and has nobody look away meanwhile."""

    def __init__(self, pool: urllib3.HTTPConnectionPool, path: str) -> None:
        self.pool, self.path = pool, path
        self.shipped: list[str] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.shipped.append(span.name)
        get(self.pool, self.path)


@pytest.mark.parametrize("path", ["/ok", "/close"])
@pytest.mark.parametrize("is_in_span", [False, True])
def test_a_span_processor_that_makes_requests_makes_one_for_each_span(
    telemetry: Telemetry, server: Server, path: str, is_in_span: bool
) -> None:
    with Server() as collector:
        shipper = Shipper(pool_of(collector), path)
        telemetry.tracer_provider.add_span_processor(shipper)
        telemetry.install()
        pool = pool_of(server)
        if is_in_span:
            with telemetry.tracer.start_as_current_span("application"):
                assert get(pool, "/close") == 200
        else:
            assert get(pool, "/close") == 200
        assert server.books.requests == 1
        assert collector.books.requests == len(shipper.shipped) == len(telemetry._exporter.get_finished_spans())
        before = len(shipper.shipped)
        assert 0 < before < 20
        assert get(pool) == 200
        later = shipper.shipped[before:]
        assert sum(name.startswith(SETUP_SPAN) for name in later) == 1
        assert len(later) < 20
        metrics = telemetry.collect()
        check_laws(metrics, checkouts=server.books.requests + collector.books.requests)
        check_laws(metrics, checkouts=2, server__port=server.port)


class Collecting(SpanProcessor):
    """Has the metrics collected when each span begins and ends."""

    def __init__(self, telemetry: Telemetry) -> None:
        self.telemetry = telemetry
        self.seen: list[tuple[str, Metrics]] = []

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        self.seen.append((span.name, self.telemetry.collect()))

    def on_end(self, span: ReadableSpan) -> None:
        self.seen.append((span.name, self.telemetry.collect()))


@pytest.mark.parametrize("path", ["/fin/0", "/lost"])
def test_a_collection_while_a_span_is_made_obeys_the_laws(telemetry: Telemetry, server: Server, path: str) -> None:
    collecting = Collecting(telemetry)
    telemetry.tracer_provider.add_span_processor(collecting)
    telemetry.install()
    pool = pool_of(server)
    if path == "/lost":
        get(pool, path)
    else:
        leave_a_dropped_connection(pool)
    get(pool, path, retries=1)
    assert any("dropped" in name for name, _ in collecting.seen)
    for _, metrics in [*collecting.seen, ("", telemetry.collect())]:
        check_laws(metrics)
    (phase,) = [phase for _, phase in drops(telemetry.collect())]
    assert phase == ("request" if path == "/lost" else "checkout")


# Signals and interrupts


class TimeIsUpError(Exception):
    """An ordinary exception, as celery's SoftTimeLimitExceeded is."""


class Deadline:
    """A signal handler in several shapes, which raises one and the same exception."""

    def __init__(self) -> None:
        self.error = TimeIsUpError()

    def method(self, *_: object) -> None:
        raise self.error

    def deeper(self, *arguments: object) -> None:
        self.method(*arguments)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        raise self.error

    def shapes(self) -> dict[str, Callable[[int, FrameType | None], Any]]:
        def function(number: int, frame: FrameType | None) -> None:
            raise self.error

        return {
            "function": function,
            "method": self.method,
            "deeper": self.deeper,
            "partial": functools.partial(self.method, "more"),
            "object": self,
        }


#: What our hooks call; and the path of the request that gets there, on a pool that holds a dropped connection if "fin".
PLACES: list[tuple[Any, str, str]] = [
    (_context, "current_use", "/ok"),
    (_kernel, "inspect_dropped", "fin"),
    (_ledger.Ledger, "post", "fin"),
    (_ledger.Ledger, "settle", "fin"),
    (_kernel, "addresses", "fin"),
    (_urllib3, "proxy_of", "fin"),
    (_urllib3, "lookup_name", "fin"),
    (_urllib3, "Closer", "/close"),
    (_kernel, "inspect_failed", "/lost"),
]


@loses_connections
@pytest.mark.parametrize(("owner", "name", "path"), PLACES, ids=[name for _, name, _ in PLACES])
def test_the_exception_of_a_signal_handler_reaches_the_caller(
    telemetry: Telemetry, server: Server, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, path: str
) -> None:
    strike_once_from(telemetry, server, monkeypatch, owner, name, path, "function")


@loses_connections
@pytest.mark.parametrize("shape", sorted(Deadline().shapes()))
def test_a_signal_handler_of_any_shape_is_known(
    telemetry: Telemetry, server: Server, monkeypatch: pytest.MonkeyPatch, shape: str
) -> None:
    strike_once_from(telemetry, server, monkeypatch, _kernel, "inspect_dropped", "fin", shape)


def strike_once_from(
    telemetry: Telemetry, server: Server, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, path: str, shape: str
) -> None:
    armed: list[bool] = []
    real = getattr(owner, name)

    def strike(*args: Any, **kwargs: Any) -> Any:
        if armed:
            armed.clear()
            signal.raise_signal(signal.SIGUSR1)
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, strike)
    telemetry.install()
    pool = pool_of(server)
    if path == "fin":
        leave_a_dropped_connection(pool)
    else:
        get(pool, path if path == "/lost" else "/ok")
    deadline = Deadline()
    previous = signal.signal(signal.SIGUSR1, deadline.shapes()[shape])
    try:
        armed.append(True)
        with pytest.raises(TimeIsUpError) as caught:
            get(pool, "/ok" if path == "fin" else path)
        assert not armed
        assert caught.value is deadline.error
    finally:
        signal.signal(signal.SIGUSR1, previous)
    before = telemetry.collect().value("urllib3.pool.checkouts")
    spans = len(telemetry.named(SETUP_SPAN))
    for _ in range(3):
        assert get(pool, "/close") == 200
    metrics = telemetry.collect()
    assert metrics.value("urllib3.pool.checkouts") == before + 3
    assert closes(metrics)["response_close"] >= 3
    assert len(telemetry.named(SETUP_SPAN)) >= spans + 2


class InterruptedOnce(set[int]):
    """An interrupt right after a thread was entered: the interpreter looks for signals when a call returns."""

    is_armed = True

    def add(self, element: int) -> None:
        super().add(element)
        if self.is_armed:
            self.is_armed = False
            raise KeyboardInterrupt


def interrupt_when_entered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(the_ledger(), "_inside", InterruptedOnce())


def interrupt_while_booking(monkeypatch: pytest.MonkeyPatch) -> None:
    real, struck = the_ledger()._apply, list[bool]()

    def apply(details: Any) -> None:
        if not struck:
            struck.append(True)
            raise KeyboardInterrupt
        real(details)

    monkeypatch.setattr(the_ledger(), "_apply", apply)


@loses_connections
@pytest.mark.parametrize("interrupt", [interrupt_when_entered, interrupt_while_booking])
@pytest.mark.parametrize("is_collecting", [False, True])
def test_an_interrupt_while_booking_does_not_mute_its_thread(
    telemetry: Telemetry,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    interrupt: Callable[[pytest.MonkeyPatch], None],
    is_collecting: bool,
) -> None:
    telemetry.install()
    pool = pool_of(server)
    get(pool)
    telemetry.collect()
    interrupt(monkeypatch)

    def work() -> None:
        if is_collecting:
            the_ledger().post(PoolSeen(record_of(pool)))
            the_ledger().read()
        for _ in range(2):
            get(pool, "/close")

    with pytest.raises(KeyboardInterrupt):
        work()
    before = telemetry.collect().value("urllib3.pool.checkouts")
    for number in range(1, 4):
        assert get(pool, "/close") == 200
        assert not [each for each in the_ledger()._posted if isinstance(each, CheckedOut)]
        assert telemetry.collect().value("urllib3.pool.checkouts") == before + number


# Applications


def test_an_upstream_excluded_at_the_next_install_keeps_its_totals(telemetry: Telemetry, server: Server) -> None:
    totals = ["checkouts", "use.time", "opened_connections", "closed_connections", "dropped_connections", "creations"]

    def read() -> tuple[list[float], Metrics]:
        metrics = telemetry.collect()
        return [metrics.value(f"urllib3.pool.{name}") for name in totals], metrics

    telemetry.install(metrics="all")
    pool = pool_of(server)
    leave_a_dropped_connection(pool)
    for _ in range(5):
        get(pool)
    before, metrics = read()
    assert all(before)
    assert metrics.value("http.client.open_connections") == 1
    pool_telemetry.uninstall()

    telemetry.install(metrics="all", excluded_hosts=[server.host])
    get(pool)
    excluded, metrics = read()
    assert excluded == before
    for name in ("http.client.open_connections", "urllib3.pool.socket.count", "urllib3.pool.count"):
        assert metrics.value(name) == 0
    pool_telemetry.uninstall()

    telemetry.install(metrics="all")
    get(pool)
    again, metrics = read()
    assert all(now >= was for now, was in zip(again, before, strict=True))
    assert again[0] == before[0] + 1
    check_laws(metrics)


def test_an_application_that_looks_for_drops_itself_makes_no_more_of_them(telemetry: Telemetry, server: Server) -> None:
    telemetry.install()
    pool = pool_of(server)
    conn = leave_a_dropped_connection(pool)
    assert all(is_dropped(conn) for _ in range(5))
    assert not drops(telemetry.collect())
    for _ in range(6):
        get(pool, "/close")
    metrics = telemetry.collect()
    check_laws(metrics, checkouts=7)
    assert drops(metrics) == {("fin", "checkout"): 1}
    assert outcomes(metrics) == {"new": 6, "replaced": 1}
    assert closes(metrics) == {"dropped": 1, "response_close": 6}


def test_a_connection_found_dropped_and_closed_by_the_application_is_no_drop(
    telemetry: Telemetry, server: Server
) -> None:
    telemetry.install()
    pool = pool_of(server)
    conn = leave_a_dropped_connection(pool)
    assert is_dropped(conn)
    conn.close()
    get(pool)
    metrics = telemetry.collect()
    check_laws(metrics, checkouts=2)
    assert not drops(metrics)
    assert outcomes(metrics) == {"new": 2}


def use_a_class_of_its_own(server: Server) -> tuple[type, type]:
    class Connection(urllib3.connection.HTTPConnection):
        def connect(self) -> None:
            super().connect()

    class Pool(urllib3.HTTPConnectionPool):
        ConnectionCls = Connection

    pool = Pool(server.host, server.port)
    assert get(pool) == 200
    pool.close()
    return Connection, Pool


def test_connection_classes_made_at_run_time_can_be_collected(telemetry: Telemetry, server: Server) -> None:
    telemetry.install()
    kept, _ = use_a_class_of_its_own(server)
    classes = [weakref.ref(each) for _ in range(50) for each in use_a_class_of_its_own(server)]
    gc.collect()
    gc.collect()
    assert sum(each() is not None for each in classes) == 0
    metrics = telemetry.collect()
    check_laws(metrics, checkouts=51)
    assert metrics.value("urllib3.pool.opened_connections") == 51
    assert hasattr(vars(kept)["connect"], "__wrapped__")
    pool_telemetry.uninstall()
    assert not hasattr(vars(kept)["connect"], "__wrapped__")


@pytest.mark.parametrize("error", [TypeError, AttributeError])
def test_connections_of_a_class_that_cannot_be_changed_are_adopted(
    telemetry: Telemetry, server: Server, error: type[Exception]
) -> None:
    class Frozen(type):
        def __setattr__(cls, name: str, value: object) -> None:
            raise error(name)

    class Connection(urllib3.connection.HTTPConnection, metaclass=Frozen):
        def connect(self) -> None:
            super().connect()

    class Pool(urllib3.HTTPConnectionPool):
        ConnectionCls = Connection

    telemetry.install()
    pool = Pool(server.host, server.port)
    assert [get(pool) for _ in range(3)] == [200] * 3
    metrics = telemetry.collect()
    adopted = int(1 - metrics.value("urllib3.pool.opened_connections"))
    check_laws(metrics, checkouts=3, adopted=adopted)
    assert outcomes(metrics) == {"new": 1, "reused": 2}
    assert metrics.value("http.client.open_connections") == 1
    pool.close()
    metrics = telemetry.collect()
    check_laws(metrics, checkouts=3, adopted=adopted)
    assert metrics.value("http.client.open_connections") == 0


@pytest.mark.parametrize("is_closed_at_once", [False, True])
def test_a_connection_whose_socket_was_taken_away_opens_a_new_one(
    telemetry: Telemetry, server: Server, is_closed_at_once: bool
) -> None:
    telemetry.install()
    pool = pool_of(server)
    taken: list[Any] = []
    for number in range(1, 5):
        get(pool)
        (conn,) = pooled(pool)
        sock, conn.sock = conn.sock, None
        taken.append(sock)
        if is_closed_at_once:
            sock.close()
        if number % 2:
            check_laws(telemetry.collect(), checkouts=number)
    get(pool)
    get(pool)
    metrics = telemetry.collect()
    for sock in taken:
        sock.close()
    check_laws(metrics, checkouts=6)
    assert outcomes(metrics) == {"new": 5, "reused": 1}
    assert causes(metrics) == {"new": 5}
    assert metrics.value("http.client.open_connections") == 1
    assert sum(closes(metrics).values()) == 4


def use_by_hand(conn: Any) -> None:
    """A request past the pool: http.client opens the connection by itself."""
    conn.timeout = 5  # urllib3 1 leaves it to the pool
    conn.request("GET", "/ok")
    response = conn.getresponse()
    assert response.status == 200
    response.read()


def test_a_bare_connection_that_was_closed_and_opens_by_itself_is_in_use(telemetry: Telemetry, server: Server) -> None:
    telemetry.install()
    pool = pool_of(server, maxsize=2)
    first = pool._get_conn()
    first.close()
    second = pool._get_conn()
    assert telemetry.collect().value("urllib3.pool.active.peak") == 1
    use_by_hand(first)
    metrics = telemetry.collect()
    assert metrics.value("urllib3.pool.active.peak") == 2
    check_laws(metrics, checkouts=2)
    for conn in (first, second):
        pool._put_conn(conn)
    assert telemetry.collect().by("http.client.open_connections", "state") == {"idle": 1}


def test_an_adopted_connection_that_is_closed_and_opens_by_itself_is_another_one(
    telemetry: Telemetry, server: Server
) -> None:
    pool = pool_of(server)
    get(pool)
    telemetry.install()
    conn = pool._get_conn()
    conn.close()
    use_by_hand(conn)
    pool._put_conn(conn)
    metrics = telemetry.collect()
    check_laws(metrics, checkouts=1, adopted=1)
    assert outcomes(metrics) == {"reused": 1}
    assert closes(metrics) == {"unknown": 1}
    get(pool)
    metrics = telemetry.collect()
    check_laws(metrics, checkouts=2, adopted=1)
    assert metrics.count("urllib3.connection.idle.duration", outcome="reused") == 1


def test_a_connection_that_outlives_its_pool_is_in_use(telemetry: Telemetry, server: Server) -> None:
    telemetry.install()
    pool = urllib3.HTTPConnectionPool(server.host, server.port)
    conn = pool._get_conn()
    use_by_hand(conn)
    pool_telemetry.uninstall()
    telemetry.install()  # which does not know who is in use
    del pool
    metrics = telemetry.collect()
    conn.close()
    assert metrics.by("http.client.open_connections", "state") == {"active": 1}
    check_laws(metrics, checkouts=1, adopted=0)


def test_a_socket_that_is_changed_while_the_hooks_are_put_in_again_is_known_at_once(
    telemetry: Telemetry, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    telemetry.install()
    with urllib3.HTTPConnectionPool(server.host, server.port) as pool:
        assert pool.request("GET", "/ok").data == b"ok"
        pool_telemetry.uninstall()
        (conn,) = pooled(pool)
        open_gate = Patches.open

        def another_thread_is_faster(patches: Patches) -> None:
            conn.close()
            conn.connect()
            open_gate(patches)

        monkeypatch.setattr(Patches, "open", another_thread_is_faster)
        telemetry.install()
        before = telemetry.collect()
        assert before.by("http.client.open_connections", "state") == {"idle": 1}
        assert pool.request("GET", "/ok").data == b"ok"
        metrics = telemetry.collect()
    assert metrics.by("http.client.open_connections", "state") == {"idle": 1}
    check_laws(metrics, checkouts=2, adopted=1)


class CopiedConnection(urllib3.connection.HTTPConnection):
    """Of a class of its own: copying leaves traces in the class."""


class CopiedPool(urllib3.HTTPConnectionPool):
    """The same of pools."""

    ConnectionCls = CopiedConnection


def copied_pool_of(server: Server) -> urllib3.HTTPConnectionPool:
    # A timeout of its own: urllib3 1.26 knows its default by identity, and not in a copy.
    _pools.append(CopiedPool(server.host, server.port, timeout=5))
    return _pools[-1]


def of_copying(things: list[Any]) -> list[str]:
    """What comes of pickling and copying each: the type, or the error."""

    def attempt(make: Callable[[Any], Any], thing: Any) -> str:
        try:
            return type(make(thing)).__name__
        except Exception as error:
            return repr(error)

    ways = (lambda thing: pickle.loads(pickle.dumps(thing)), pickle.dumps, copy.copy, copy.deepcopy)
    return [attempt(way, thing) for thing in things for way in ways]


def test_connections_and_pools_are_pickled_and_copied_as_without_us(telemetry: Telemetry, server: Server) -> None:
    def things() -> list[Any]:
        pool = copied_pool_of(server)
        get(pool, "/close")
        (without_socket,) = pooled(pool)
        assert without_socket.sock is None
        fresh_pool = copied_pool_of(server)
        never_connected = fresh_pool._get_conn()
        with_socket_pool = copied_pool_of(server)
        get(with_socket_pool)
        return [without_socket, never_connected, *pooled(with_socket_pool), pool, fresh_pool]

    expected = of_copying(things())
    assert "CopiedConnection" in expected
    telemetry.install()
    assert of_copying(things()) == expected


def test_copies_of_connections_and_pools_work(telemetry: Telemetry, server: Server) -> None:
    telemetry.install()
    pool = copied_pool_of(server)
    conn = pool._get_conn()
    for twin in (copy.copy(conn), copy.deepcopy(conn), pickle.loads(pickle.dumps(conn))):
        twin.request("GET", "/ok")
        assert twin.getresponse().status == 200
        check_laws(telemetry.collect())
        twin.close()
        check_laws(telemetry.collect())
    twin = copy.copy(pool)
    pool._put_conn(conn)
    assert [get(each) for each in (pool, twin, pool)] == [200] * 3
    check_laws(telemetry.collect())


def in_thread(work: Callable[[], object]) -> int:
    """Runs it in a thread of its own, and gives that one's ident."""
    idents: list[int] = []

    def note_and_work() -> None:
        idents.append(threading.get_ident())
        work()

    thread = threading.Thread(target=note_and_work)
    thread.start()
    thread.join()
    return idents[0]


def test_a_thread_does_not_inherit_the_lost_race_of_one_that_had_its_ident(
    telemetry: Telemetry, server: Server
) -> None:
    telemetry.install()

    def lose(pool: urllib3.HTTPConnectionPool) -> None:
        get(pool, "/lost")
        with pytest.raises(urllib3.exceptions.ProtocolError):
            get(pool, "/lost", retries=False)

    tries, is_same = 0, False
    while not is_same and tries < 50:
        tries += 1
        pool = pool_of(server)
        is_same = in_thread(functools.partial(lose, pool)) == in_thread(functools.partial(get, pool))
    assert is_same, "no ident was given twice: what this test is about did not happen"
    metrics = telemetry.collect()
    check_laws(metrics, checkouts=3 * tries)
    assert closes(metrics)["lost_race"] == tries
    assert causes(metrics) == {"new": 2 * tries}
    set_ups = telemetry.named(SETUP_SPAN)
    assert len(set_ups) == 2 * tries
    assert not [link for span in set_ups for link in span.links]


def test_an_exception_of_a_signal_handler_at_any_moment_leaves_no_lock_locked() -> None:
    run_apart(interrupted_at_any_moment)


def interrupted_at_any_moment() -> None:
    telemetry = Telemetry()
    telemetry.install(spans="off")
    ledger = _instrument._ledger
    assert ledger is not None
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    interrupts = 0
    for work in (ledger.settle, ledger.read):
        until = time.monotonic() + 1
        while time.monotonic() < until:
            repeat_until_interrupted(work)
            interrupts += 1
    # Another thread's collection would wait for ever.
    collected: list[object] = []
    other = threading.Thread(target=lambda: collected.append(telemetry.collect()), daemon=True)
    other.start()
    other.join(60)
    assert collected
    assert interrupts > 100
    assert not ledger._inside


def repeat_until_interrupted(work: Callable[[], object]) -> None:
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0003)
        while True:
            work()
    except KeyboardInterrupt:
        pass
