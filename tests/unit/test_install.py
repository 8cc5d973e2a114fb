"""install() and uninstall(): in any order with providers, threads, requests and other libraries; exactly undone."""

from __future__ import annotations

import contextlib
import gc
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3.connection
import urllib3.connectionpool
import urllib3.util.connection
import wrapt
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from urllib3 import HTTPConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection

import pool_telemetry
from misbehaving import Server
from pool_telemetry import _instrument
from pool_telemetry._marks import MARK
from tests import programs
from tests.support import Metrics, Telemetry, check_laws

MODULES = (urllib3.connectionpool, urllib3.connection, urllib3.util.connection)
CLASSES = (HTTPConnectionPool, HTTPConnection, HTTPSConnection, urllib3.Retry)
# Everything that is hooked, own or inherited.
PLACES: list[tuple[Any, str]] = [
    *((HTTPConnectionPool, name) for name in ("_get_conn", "_put_conn")),
    (urllib3.Retry, "increment"),
    *((HTTPConnection, name) for name in ("connect", "close")),
    (HTTPSConnection, "connect"),
    (urllib3.connectionpool, "is_connection_dropped"),
    (urllib3.util.connection, "create_connection"),
    (urllib3.util.connection, "_set_socket_options"),
    (urllib3.connection, "ssl_wrap_socket"),
]
NAMES = [f"{owner.__name__}.{name}" for owner, name in PLACES]


class Contents:
    """What stands in urllib3's modules and classes, compared by identity: wrapt's wrappers equal what they wrap."""

    def __init__(self) -> None:
        self._found = {owner: dict(vars(owner)) for owner in (*MODULES, *CLASSES)}

    def differences(self) -> set[str]:
        """Names that have come, gone or changed since."""
        return {
            f"{owner.__name__}.{name}"
            for owner, was in self._found.items()
            for name in {**was, **vars(owner)}
            if name not in was or name not in vars(owner) or was[name] is not vars(owner)[name]
        }


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


@contextlib.contextmanager
def a_pool(server: Server, **options: Any) -> Iterator[HTTPConnectionPool]:
    with HTTPConnectionPool(server.host, server.port, retries=3, **options) as pool:
        yield pool


def get(pool: HTTPConnectionPool, path: str = "/ok", **options: Any) -> Any:
    response = pool.request("GET", path, **options)
    assert response.status == 200
    return response


def lying(pool: HTTPConnectionPool) -> list[Any]:
    assert pool.pool is not None
    return [conn for conn in tuple(pool.pool.queue) if conn is not None]


def end(server: Server, pool: HTTPConnectionPool) -> None:
    """End every connection that lies in the pool by a FIN, and wait until it has come."""
    for connection in server.connections:
        connection.fin()
    deadline = time.monotonic() + 60
    while not all(urllib3.util.connection.is_connection_dropped(conn) for conn in lying(pool)):
        assert time.monotonic() < deadline, "the FIN has not come"
        time.sleep(0.001)


def opened_at_once(pool: HTTPConnectionPool, count: int) -> None:
    """Fill the pool: so many requests at once."""
    responses = [pool.request("GET", "/ok", preload_content=False) for _ in range(count)]
    for response in responses:
        response.read()
        response.release_conn()


def adopted() -> int:
    """Connections that were found open; the contract shows them in levels only."""
    assert _instrument._ledger is not None
    return sum(reading.adopted for reading in _instrument._ledger.read())


# Providers

GLOBAL_PROVIDERS = """
    import pool_telemetry
    from misbehaving import Server
    from opentelemetry import metrics, trace
    from tests.support import Telemetry, check_laws, manager

    telemetry = Telemetry()

    def set_providers():
        trace.set_tracer_provider(telemetry.tracer_provider)
        metrics.set_meter_provider(telemetry.meter_provider)

    def check(requests, setups):
        collected = telemetry.collect()
        check_laws(collected, checkouts=requests)
        for name in collected.names:
            points = [tuple(sorted(point.attributes.items())) for point in collected.points(name)]
            assert len(points) == len(set(points)), f"doubled: {name}"
        assert len(telemetry.named("HTTP connection_setup")) == setups, telemetry.spans

    with Server() as server:
        http = manager()
        def get(path="/ok"):
            assert http.request("GET", server.url + path).status == 200
"""


def with_server(steps: str) -> str:
    return GLOBAL_PROVIDERS + "".join(f"        {step.strip()}\n" for step in steps.strip().splitlines())


@programs.once
def test_global_providers_set_before_install_are_used() -> None:
    programs.run(with_server("set_providers(); pool_telemetry.install(); get(); get(); check(2, setups=1)"))


@programs.once
def test_global_providers_set_after_install_are_used() -> None:
    programs.run(with_server("pool_telemetry.install(); set_providers(); get(); get(); check(2, setups=1)"))


@programs.once
def test_what_was_counted_before_the_providers_were_set_is_told_by_them() -> None:
    # Spans that nobody took are gone; totals and samples are not.
    programs.run(
        with_server("pool_telemetry.install(); get(); get('/close'); set_providers(); get(); check(3, setups=1)")
    )


@programs.once
def test_a_provider_that_was_global_first_and_is_given_later_gets_each_series_once() -> None:
    programs.run(
        with_server(
            """
            set_providers(); pool_telemetry.install(); get()
            pool_telemetry.uninstall()
            pool_telemetry.install(meter_provider=telemetry.meter_provider); get(); check(2, setups=1)
            """
        )
    )


@programs.once
def test_a_provider_that_was_set_after_install_and_is_given_later_gets_each_series_once() -> None:
    programs.run(
        with_server(
            """
            pool_telemetry.install(); get(); set_providers()
            pool_telemetry.uninstall()
            pool_telemetry.install(meter_provider=telemetry.meter_provider); get(); check(2, setups=0)
            pool_telemetry.uninstall()
            pool_telemetry.install(); get(); check(3, setups=0)
            """
        )
    )


@programs.once
def test_a_provider_that_was_given_first_and_is_global_later_gets_each_series_once() -> None:
    programs.run(
        with_server(
            """
            telemetry.install(); get()
            pool_telemetry.uninstall(); set_providers()
            pool_telemetry.install(); get(); check(2, setups=1)
            """
        )
    )


@programs.once
def test_given_providers_come_before_the_global_ones() -> None:
    programs.run(
        with_server(
            """
            set_providers(); other = Telemetry()
            other.install(); get()
            assert telemetry.collect().names == set() and not telemetry.spans
            telemetry = other; check(1, setups=1)
            """
        )
    )


@programs.once
def test_without_an_sdk_requests_go_on_and_the_samples_stay_few() -> None:
    programs.run(
        """
        import sys

        import urllib3

        import pool_telemetry
        from misbehaving import Server
        from pool_telemetry import _instrument
        from pool_telemetry._watch import MOST_SAMPLES

        pool_telemetry.install(metrics="all", spans="all")
        most = 0
        with Server() as server:
            http = urllib3.PoolManager(retries=3)
            for number in range(3 * MOST_SAMPLES):
                path = "/close" if number % 100 == 99 else "/lost" if number % 100 == 98 else "/ok"
                assert http.request("GET", server.url + path).data == b"ok"
                most = max(most, len(_instrument._ledger.samples.waiting))
        assert MOST_SAMPLES // 2 < most <= MOST_SAMPLES + 1, most
        assert not _instrument._ledger._posted or len(_instrument._ledger._posted) < 10
        sdk = [name for name in sys.modules if name.startswith("opentelemetry.sdk")]
        assert not sdk, sdk
        """
    )


@pytest.mark.parametrize(
    ("argument", "provider"),
    [
        ("tracer_provider", object()),
        ("meter_provider", object()),
        ("tracer_provider", MeterProvider),  # the class, not an instance, has no get_tracer either
        ("meter_provider", "console"),
    ],
)
def test_what_is_no_provider_is_refused(argument: str, provider: Any) -> None:
    before = Contents()
    with pytest.raises(TypeError) as caught:
        pool_telemetry.install(**{argument: provider})
    for told in (argument, repr(provider), "provider"):
        assert told in str(caught.value)
    assert not before.differences()


@pytest.mark.parametrize("fault", ["get_meter", "create_histogram"])
def test_a_provider_that_fails_leaves_urllib3_as_it_was(fault: str, server: Server) -> None:
    class Meter:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError(f"no {name} today")

    class Provider:
        def get_meter(self, *args: Any, **kwargs: Any) -> Any:
            if fault == "get_meter":
                raise RuntimeError("no meter today")
            return Meter()

    before, provider = Contents(), Provider()
    with a_pool(server) as pool:
        with pytest.raises(RuntimeError, match="today"):
            pool_telemetry.install(meter_provider=provider)  # type: ignore[arg-type]  # no provider, on purpose
        assert not before.differences()
        get(pool)
        assert MARK not in vars(pool)
    with Telemetry() as telemetry:
        telemetry.install()
        assert before.differences()


def test_a_meter_provider_that_is_done_with_is_let_go() -> None:
    with Telemetry() as telemetry:
        telemetry.install()
        pool_telemetry.uninstall()
    before = len([each for each in gc.get_objects() if isinstance(each, MeterProvider)])
    with Telemetry() as telemetry:
        telemetry.install()
    del telemetry
    gc.collect()
    assert len([each for each in gc.get_objects() if isinstance(each, MeterProvider)]) <= before


# Twice, and from many threads


def test_a_second_install_changes_nothing(telemetry: Telemetry, server: Server) -> None:
    telemetry.install()
    installed = Contents()
    with a_pool(server) as pool, Telemetry() as other:
        get(pool)
        other.install(metrics="off", spans="off", excluded_hosts="*")
        assert not installed.differences()
        get(pool, "/close")
        get(pool)
        assert not other.spans
        assert other.collect().names == set()
        check_laws(telemetry.collect(), checkouts=3)
        assert len(telemetry.named("HTTP connection_setup")) == 2


def test_uninstall_without_install_does_nothing() -> None:
    before = Contents()
    pool_telemetry.uninstall()
    pool_telemetry.uninstall()
    assert not before.differences()


def at_once(count: int, act: Callable[[int], None]) -> None:
    """Let so many threads act at the same moment; what fails in one fails the test."""
    start, faults = threading.Barrier(count), list[BaseException]()

    def run(number: int) -> None:
        try:
            start.wait()
            act(number)
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a thread hangs"
    assert not faults, faults


def test_install_from_many_threads_installs_once(telemetry: Telemetry, server: Server) -> None:
    before = Contents()
    at_once(16, lambda _: telemetry.install())
    with a_pool(server) as pool:
        get(pool)
        get(pool)
        check_laws(telemetry.collect(), checkouts=2)
    at_once(16, lambda _: pool_telemetry.uninstall())
    assert not before.differences()


def test_install_and_uninstall_among_requests_leave_nothing_and_lose_no_request(
    telemetry: Telemetry, server: Server
) -> None:
    before = Contents()
    with a_pool(server, maxsize=4) as pool:

        def act(number: int) -> None:
            for turn in range(30):
                if number % 2:
                    get(pool, "/close" if turn % 5 == 4 else "/ok")
                elif turn % 2:
                    pool_telemetry.uninstall()
                else:
                    telemetry.install()

        at_once(8, act)
        pool_telemetry.uninstall()
        assert not before.differences()
        assert not marked(pool)
        telemetry.install()
        get(pool)
        check_laws(telemetry.collect(), adopted=adopted())


def test_install_starts_no_thread(telemetry: Telemetry) -> None:
    before = set(threading.enumerate())
    telemetry.install(metrics="all", spans="all")
    assert set(threading.enumerate()) == before


# What is imported, and what is refused


@programs.once
def test_importing_the_library_imports_nothing_that_gevent_has_to_patch_first() -> None:
    printed = programs.run(
        """
        import sys
        before = set(sys.modules)
        import pool_telemetry
        pool_telemetry.uninstall(), pool_telemetry.snapshot(), pool_telemetry.flush()
        print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before}))
        """
    )
    imported = set(printed.split())
    assert "pool_telemetry" in imported
    assert not imported & {"urllib3", "wrapt", "opentelemetry", "ssl", "socket", "requests"}


REFUSED = """
    import sys
    import pool_telemetry
    try:
        pool_telemetry.install()
    except RuntimeError as error:
        print(type(error).__name__, error)
    assert "opentelemetry.sdk" not in sys.modules
    pool_telemetry.uninstall()
"""


def a_stub(folder: Path, init: str) -> Path:
    """A package that calls itself urllib3 and has nothing inside that this library knows."""
    package = folder / "urllib3"
    package.mkdir()
    (package / "__init__.py").write_text(init)
    for name in ("connection", "connectionpool", "response", "exceptions"):
        (package / f"{name}.py").write_text("")
    return folder


@programs.once
@pytest.mark.parametrize(
    ("init", "told"),
    [
        ("__version__ = '2.25.904'\nclass AsyncPoolManager: pass\n", ("urllib3-future", "2.25.904")),
        ("__version__ = '1.26.15'\n", ("1.26.15",)),
        ("", ("unknown",)),
    ],
)
def test_a_urllib3_that_is_another_inside_is_refused_clearly(init: str, told: tuple[str, ...], tmp_path: Path) -> None:
    message = programs.run(REFUSED, path=[a_stub(tmp_path, init)])
    for part in ("UnsupportedUrllib3Error", "supports urllib3 from 1.26.16", *told):
        assert part in message


@programs.once
def test_a_urllib3_of_another_version_is_refused_clearly_and_a_supported_one_is_not() -> None:
    printed = programs.run(
        """
        import urllib3
        import pool_telemetry

        for version in ("3.0.0", "10.1", "1.26.15", "1.25", "0.9", "dev", "1.26.16", "1.27", "2.0.0a1", "2.99.0",
                        "2.9.0rc1", "2.9.1.dev3+local"):
            urllib3.__version__ = version
            try:
                pool_telemetry.install()
            except RuntimeError as error:
                assert f"urllib3 {version} is not supported" in str(error), error
                assert "from 1.26.16" in str(error), error
                print(version, type(error).__name__)
            pool_telemetry.uninstall()
        """
    )
    refused = [tuple(line.split()) for line in printed.splitlines()]
    expected = ("3.0.0", "10.1", "1.26.15", "1.25", "0.9", "dev")
    assert refused == [(version, "UnsupportedUrllib3Error") for version in expected]


# Exactly undone


def test_uninstall_restores_every_function_and_every_absence(telemetry: Telemetry, server: Server) -> None:
    before = Contents()
    telemetry.install(spans="all", metrics="all")
    assert before.differences() == set(NAMES)  # otherwise this test does not look at all of them
    with a_pool(server) as pool:
        get(pool)
    pool_telemetry.uninstall()
    assert not before.differences()


def test_a_connection_class_that_was_met_on_the_way_is_restored_too(telemetry: Telemetry, server: Server) -> None:
    class Own(HTTPConnection):
        def connect(self) -> None:
            super().connect()

    class Pool(HTTPConnectionPool):
        ConnectionCls = Own

    before, of_own = Contents(), dict(vars(Own))
    telemetry.install()
    with Pool(server.host, server.port) as pool:
        get(pool)
        assert vars(Own)["connect"] is not of_own["connect"]
        pool_telemetry.uninstall()
        assert vars(Own).keys() == of_own.keys()
        assert vars(Own)["connect"] is of_own["connect"]
        get(pool)
    assert not before.differences()


def passing(calls: list[str]) -> Callable[..., Any]:
    def theirs(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        calls.append("theirs")
        return wrapped(*args, **kwargs)

    return theirs


def put_back(owner: Any, name: str, before: Any) -> None:
    if before is None:
        delattr(owner, name)
    else:
        setattr(owner, name, before)


@pytest.mark.parametrize(("owner", "name"), PLACES, ids=NAMES)
def test_a_wrapt_wrapper_that_was_put_over_ours_stays_and_ours_goes(
    owner: Any, name: str, telemetry: Telemetry, server: Server
) -> None:
    before, own, original = Contents(), vars(owner).get(name), getattr(owner, name)
    telemetry.install()
    calls = list[str]()
    wrapt.wrap_function_wrapper(owner, name, passing(calls))
    theirs = vars(owner)[name]
    try:
        with a_pool(server) as pool:
            get(pool, "/close")
            get(pool, "/close")
            pool_telemetry.uninstall()
            assert vars(owner)[name] is theirs
            assert theirs.__wrapped__ is original
            calls.clear()
            get(pool)
            end(server, pool)
            get(pool)
            assert bool(calls) == (owner is not HTTPSConnection and name not in ("ssl_wrap_socket", "increment"))
    finally:
        pool_telemetry.uninstall()
        put_back(owner, name, own)
    assert not before.differences()


@pytest.mark.parametrize(("owner", "name"), PLACES, ids=NAMES)
def test_a_wrapt_wrapper_that_was_there_before_ours_is_there_after_it(
    owner: Any, name: str, telemetry: Telemetry, server: Server
) -> None:
    before, own, calls = Contents(), vars(owner).get(name), list[str]()
    wrapt.wrap_function_wrapper(owner, name, passing(calls))
    theirs = vars(owner)[name]
    try:
        telemetry.install()
        with a_pool(server) as pool:
            get(pool)
            end(server, pool)
            get(pool)
            assert bool(calls) == (owner is not HTTPSConnection and name not in ("ssl_wrap_socket", "increment"))
            check_laws(telemetry.collect(), checkouts=2)
        pool_telemetry.uninstall()
        assert vars(owner)[name] is theirs
    finally:
        pool_telemetry.uninstall()
        put_back(owner, name, own)
    assert not before.differences()


@pytest.mark.parametrize(("owner", "name"), PLACES, ids=NAMES)
def test_under_a_plain_closure_ours_stays_in_place_and_is_silent_at_once(
    owner: Any, name: str, telemetry: Telemetry, server: Server
) -> None:
    # It cannot be taken out from there. What remains is one wrapper of ours that hands on, for as long as the closure.
    before, own = Contents(), vars(owner).get(name)
    telemetry.install(spans="all", metrics="all")
    ours = getattr(owner, name)

    def closure(*args: Any, **kwargs: Any) -> Any:
        return ours(*args, **kwargs)

    setattr(owner, name, closure)
    try:
        with a_pool(server) as pool:
            get(pool, "/close")
            get(pool)
            pool_telemetry.uninstall()
            spans = len(telemetry.spans)
            assert vars(owner)[name] is closure
            get(pool)
            end(server, pool)
            get(pool)
            get(pool, "/close")
            assert not marked(pool)
            assert len(telemetry.spans) == spans
            assert telemetry.collect().value("urllib3.pool.checkouts") == 0  # nothing is reported any more
            telemetry.install()
            assert telemetry.collect().value("urllib3.pool.checkouts") == 2
            get(pool)  # once, though two wrappers of ours are called
            assert telemetry.collect().value("urllib3.pool.checkouts") == 3
            check_laws(telemetry.collect(), adopted=adopted())
    finally:
        pool_telemetry.uninstall()
        put_back(owner, name, own)
    assert not before.differences()


def marked(pool: HTTPConnectionPool) -> list[Any]:
    """What carries our mark, of a pool and what lies in it."""
    return [each for each in (pool, *lying(pool)) if MARK in vars(each)]


def test_no_mark_is_left_on_pools_and_connections(telemetry: Telemetry, server: Server) -> None:
    telemetry.install(excluded_hosts="localhost")
    with a_pool(server, maxsize=5) as pool, HTTPConnectionPool("localhost", server.port) as excluded:
        opened_at_once(pool, 5)
        get(excluded)
        assert MARK in vars(pool)
        assert len(marked(pool)) == 6
        out = pool.request("GET", "/ok", preload_content=False)
        conn: Any = out.connection
        assert MARK in vars(conn)
        get(pool, "/close")  # lies in the pool without a socket
        pool_telemetry.uninstall()
        assert not marked(pool)
        assert not marked(excluded)
        assert MARK not in vars(conn)
        out.read()
        out.release_conn()
        assert not marked(pool)


def test_a_checkout_that_waits_while_it_is_uninstalled_leaves_nothing(telemetry: Telemetry, server: Server) -> None:
    before = Contents()
    telemetry.install(spans="all", metrics="all")
    with a_pool(server, maxsize=1, block=True) as pool:
        first = pool.request("GET", "/ok", preload_content=False)
        waiter = threading.Thread(target=get, args=(pool,))
        waiter.start()
        deadline = time.monotonic() + 60
        while not telemetry.collect().value("urllib3.pool.pending_requests"):
            assert time.monotonic() < deadline
            time.sleep(0.001)
        pool_telemetry.uninstall()
        spans = len(telemetry.spans)
        first.read()
        first.release_conn()
        waiter.join(60)
        assert not before.differences()
        assert not marked(pool)
        assert len(telemetry.spans) == spans
        telemetry.install()
        get(pool)
        metrics = telemetry.collect()
        assert metrics.value("urllib3.pool.pending_requests") == 0
        check_laws(metrics, adopted=adopted())


def test_a_set_up_that_is_under_way_while_it_is_uninstalled_leaves_nothing(
    telemetry: Telemetry, server: Server
) -> None:
    class Own(HTTPConnection):
        def connect(self) -> None:
            super().connect()
            pool_telemetry.uninstall()

    class Pool(HTTPConnectionPool):
        ConnectionCls = Own

    before, of_own = Contents(), dict(vars(Own))
    telemetry.install(spans="all", metrics="all")
    with Pool(server.host, server.port) as pool:
        get(pool)
        assert not before.differences()
        assert vars(Own)["connect"] is of_own["connect"]
        assert not marked(pool)
        telemetry.install()
        get(pool)
        metrics = telemetry.collect()
        assert metrics.value("http.client.open_connections") == 1
        assert metrics.value("urllib3.pool.opened_connections") + adopted() == 1


def test_fifty_times_in_and_out_leave_nothing(telemetry: Telemetry, server: Server) -> None:
    before = Contents()

    def ours() -> int:
        gc.collect()
        return sum(str(type(each).__module__).startswith("pool_telemetry") for each in gc.get_objects())

    def once() -> None:
        telemetry.install(spans="all", metrics="all")
        with a_pool(server) as pool:
            get(pool)
            get(pool, "/close")
        telemetry.collect()  # what is to be recorded waits in a bounded buffer
        pool_telemetry.uninstall()

    once()
    once()
    at_first = ours()
    for _ in range(50):
        once()
    assert not before.differences()
    assert ours() <= at_first + 5
    telemetry.install()
    metrics = telemetry.collect()
    check_laws(metrics, checkouts=104, adopted=adopted())
    points = metrics.points("urllib3.pool.opened_connections")
    assert [point.value for point in points] == [52]


# In the middle, and again


def test_uninstalled_while_a_connection_is_out_its_return_is_not_seen(telemetry: Telemetry, server: Server) -> None:
    telemetry.install()
    with a_pool(server) as pool:
        get(pool)
        out = pool.request("GET", "/ok", preload_content=False)
        pool_telemetry.uninstall()
        out.read()
        out.release_conn()
        get(pool)
        telemetry.install()
        metrics = telemetry.collect()
        assert metrics.by("http.client.open_connections", "state") == {"idle": 1}
        check_laws(metrics, checkouts=2, adopted=adopted())
        get(pool)
        metrics = telemetry.collect()
        check_laws(metrics, checkouts=3, adopted=adopted())
        assert metrics.value("urllib3.pool.leaked_connections") == 0
        # When it was returned is not known, so that no idle time is guessed.
        assert metrics.count("urllib3.connection.idle.duration", outcome="reused") == 1
        assert server.books.accepted == metrics.value("urllib3.pool.opened_connections") == 1


def test_installed_while_a_connection_is_out_it_is_adopted_when_it_comes_back(
    telemetry: Telemetry, server: Server
) -> None:
    with a_pool(server, maxsize=2) as pool:
        out = pool.request("GET", "/ok", preload_content=False)
        telemetry.install()
        get(pool)  # makes the pool known
        check_laws(telemetry.collect(), checkouts=1)
        out.read()
        out.release_conn()
        metrics = telemetry.collect()
        assert adopted() == 1
        assert metrics.by("http.client.open_connections", "state") == {"idle": 2}
        check_laws(metrics, checkouts=1, adopted=1)
        end(server, pool)
        get(pool)
        get(pool)
        metrics = telemetry.collect()
        # The pool is LIFO: the adopted one is found dropped first.
        assert metrics.by("urllib3.pool.dropped_connections", "reason") == {"fin": 1}
        check_laws(metrics, checkouts=3, adopted=1)


def test_installed_while_requests_are_made_elsewhere_only_what_was_pooled_is_adopted(
    telemetry: Telemetry, server: Server
) -> None:
    with a_pool(server, maxsize=3) as pool:
        opened_at_once(pool, 3)
        telemetry.install()
        get(pool)
        metrics = telemetry.collect()
        assert adopted() == 3
        assert metrics.by("urllib3.pool.checkouts", "outcome") == {"reused": 1}
        check_laws(metrics, checkouts=1, adopted=3)


def test_totals_go_on_after_an_absence_in_which_nothing_happened(telemetry: Telemetry, server: Server) -> None:
    telemetry.install()
    with a_pool(server) as pool:
        get(pool)
        get(pool)
        pool_telemetry.uninstall()
        telemetry.install()
        get(pool)
        metrics = telemetry.collect()
        assert metrics.by("urllib3.pool.checkouts", "outcome") == {"new": 1, "reused": 2}
        assert metrics.value("urllib3.pool.creations") == metrics.value("urllib3.pool.count") == 1
        check_laws(metrics, checkouts=3, adopted=adopted())


@pytest.mark.parametrize("absence", ["opened", "closed", "exchanged", "pool closed", "pool collected"])
def test_the_laws_hold_after_an_absence_in_which_connections_came_and_went(
    absence: str, telemetry: Telemetry, server: Server
) -> None:
    telemetry.install()
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(a_pool(server, maxsize=3))
        opened_at_once(pool, 2)
        pool_telemetry.uninstall()
        open_now = 2
        if absence == "opened":
            opened_at_once(pool, 3)
            open_now = 3
        elif absence == "closed":
            get(pool, "/close")
            open_now = 1
        elif absence == "exchanged":
            end(server, pool)
            opened_at_once(pool, 2)
        elif absence == "pool closed":
            stack.close()
            open_now = 0
        else:
            del pool
            stack.pop_all()
            gc.collect()
            open_now = 0
        telemetry.install()
        metrics = telemetry.collect()
        check_laws(metrics, checkouts=2, adopted=adopted())
        assert metrics.value("http.client.open_connections") == open_now
        if open_now:
            get(pool)
            check_laws(telemetry.collect(), checkouts=3, adopted=adopted())


def test_what_is_out_when_it_is_installed_again_is_in_use(telemetry: Telemetry, server: Server) -> None:
    telemetry.install()
    with a_pool(server, maxsize=3) as pool:
        lost = pool.request("GET", "/ok", preload_content=False)
        kept = pool.request("GET", "/ok", preload_content=False)
        pool_telemetry.uninstall()
        telemetry.install()
        get(pool)
        metrics = telemetry.collect()
        assert metrics.by("http.client.open_connections", "state") == {"active": 2, "idle": 1}
        assert metrics.value("urllib3.pool.active.peak") == 3
        del lost
        gc.collect()
        metrics = telemetry.collect()
        assert metrics.value("urllib3.pool.leaked_connections") == 1
        assert metrics.by("urllib3.pool.closed_connections", "reason") == {"abandoned": 1}
        conn: Any = kept._connection  # type: ignore[attr-defined]  # of a response that is streamed
        kept.close()
        pool_telemetry.uninstall()
        assert not hasattr(conn, "_pool_telemetry")


def test_what_came_back_in_an_absence_and_ended_with_its_pool_is_not_told_as_abandoned(
    telemetry: Telemetry, server: Server
) -> None:
    telemetry.install()
    pool = urllib3.HTTPConnectionPool(server.host, server.port)
    out = pool.request("GET", "/ok", preload_content=False)
    pool_telemetry.uninstall()
    out.read()
    out.release_conn()
    del out, pool
    gc.collect()
    telemetry.install()
    metrics = telemetry.collect()
    assert metrics.by("urllib3.pool.closed_connections", "reason") == {"unknown": 1}
    check_laws(metrics, checkouts=1, adopted=adopted())


def test_a_drop_of_what_was_opened_in_an_absence_is_found(telemetry: Telemetry, server: Server) -> None:
    telemetry.install()
    with a_pool(server) as pool:
        get(pool, "/close")
        pool_telemetry.uninstall()
        get(pool)
        telemetry.install()
        end(server, pool)
        get(pool)
        metrics = telemetry.collect()
        assert metrics.by("urllib3.pool.dropped_connections", "reason") == {"fin": 1}
        assert metrics.by("urllib3.pool.checkouts", "outcome") == {"new": 1, "replaced": 1}
        check_laws(metrics, checkouts=2, adopted=adopted())


def test_what_is_installed_again_follows_the_new_settings(telemetry: Telemetry, server: Server) -> None:
    telemetry.install()
    with a_pool(server) as pool, telemetry.tracer.start_as_current_span("request"):
        get(pool)
        get(pool)
        assert not telemetry.named("HTTP connection_checkout")
        pool_telemetry.uninstall()
        telemetry.install(spans="all")
        get(pool)
        assert len(telemetry.named("HTTP connection_checkout")) == 1
        pool_telemetry.uninstall()
        telemetry.install(spans="off")
        get(pool, "/close")
        get(pool)
        assert len(telemetry.named("HTTP")) == 2  # the first set-up and the one checkout
        pool_telemetry.uninstall()
        telemetry.install(excluded_hosts=server.host)
        get(pool)
        get(pool, "/close")
        get(pool)
        assert telemetry.collect().value("urllib3.pool.checkouts") == 5


def test_another_meter_provider_gets_the_totals_and_the_first_falls_silent(
    telemetry: Telemetry, server: Server
) -> None:
    telemetry.install()
    with a_pool(server) as pool:
        get(pool)
        get(pool, "/close")
        setups = telemetry.collect().count("urllib3.connection.setup.duration")
        pool_telemetry.uninstall()
        reader = InMemoryMetricReader()
        provider = MeterProvider([reader])
        try:
            pool_telemetry.install(meter_provider=provider)
            get(pool)
            metrics = Metrics(reader.get_metrics_data())
            assert metrics.by("urllib3.pool.checkouts", "outcome") == {"new": 2, "reused": 1}
            assert metrics.count("urllib3.connection.setup.duration") == 1
            first = telemetry.collect()
            assert first.value("urllib3.pool.checkouts") == 0
            assert first.count("urllib3.connection.setup.duration") == setups == 1
            # And back: neither loses a callback, and none is called twice.
            pool_telemetry.uninstall()
            telemetry.install()
            get(pool)
            assert telemetry.collect().by("urllib3.pool.checkouts", "outcome") == {"new": 2, "reused": 2}
            assert Metrics(reader.get_metrics_data()).value("urllib3.pool.checkouts") == 0
        finally:
            provider.shutdown()


ALL_ONLY = {
    "urllib3.pool.use.time",
    "urllib3.connection.setup.phase.duration",
    "http.client.connection.duration",
    "urllib3.connection.requests",
}


def test_all_metrics_after_core_ones_are_added_to_them(telemetry: Telemetry, server: Server) -> None:
    telemetry.install(metrics="core")
    with a_pool(server) as pool:
        get(pool, "/close")
        core = telemetry.collect().names
        assert not core & ALL_ONLY
        pool_telemetry.uninstall()
        telemetry.install(metrics="all")
        get(pool, "/close")
        metrics = telemetry.collect()
        assert metrics.names == core | ALL_ONLY
        check_laws(metrics, checkouts=2)
        assert metrics.count("urllib3.connection.requests") == 1


def test_core_metrics_after_all_of_them_leave_the_others_as_they_are(telemetry: Telemetry, server: Server) -> None:
    telemetry.install(metrics="all")
    with a_pool(server) as pool:
        get(pool, "/close")
        assert telemetry.collect().names >= ALL_ONLY
        pool_telemetry.uninstall()
        telemetry.install(metrics="core")
        get(pool, "/close")
        metrics = telemetry.collect()
        check_laws(metrics, checkouts=2)
        assert "urllib3.pool.use.time" not in metrics.names
        for name in ALL_ONLY - {"urllib3.pool.use.time"}:  # the SDK goes on exporting what was recorded
            assert metrics.count(name) <= 2, name
            assert metrics.count("urllib3.connection.requests") == 1


def test_with_metrics_off_nothing_is_measured_and_spans_are_made(telemetry: Telemetry, server: Server) -> None:
    telemetry.install(metrics="off")
    with a_pool(server) as pool:
        get(pool)
    assert telemetry.collect().names == set()
    assert len(telemetry.named("HTTP connection_setup")) == 1


def test_with_spans_off_nothing_is_traced_and_metrics_are_there(telemetry: Telemetry, server: Server) -> None:
    telemetry.install(spans="off")
    with a_pool(server) as pool:
        get(pool)
    assert not telemetry.spans
    check_laws(telemetry.collect(), checkouts=1)
