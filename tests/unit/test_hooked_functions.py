"""What is hooked looks, and can be patched, spied upon and overridden, as before."""

from __future__ import annotations

import inspect
import pydoc
import types
import typing
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from unittest import mock

import pytest
import urllib3
import urllib3.connection
import urllib3.connectionpool
import urllib3.util.connection
import urllib3.util.retry
from urllib3 import HTTPConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.util.retry import Retry

import pool_telemetry
from misbehaving import Server
from tests.support import Telemetry, check_laws

HOOKED: list[tuple[Any, str]] = [
    (HTTPConnectionPool, "_get_conn"),
    (HTTPConnectionPool, "_put_conn"),
    (urllib3.connectionpool, "is_connection_dropped"),
    (Retry, "increment"),
    (HTTPConnection, "connect"),
    (HTTPConnection, "close"),
    (HTTPSConnection, "connect"),
    (urllib3.util.connection, "create_connection"),
    (urllib3.util.connection, "_set_socket_options"),
    (urllib3.connection, "ssl_wrap_socket"),
]
IDS = [f"{owner.__name__}.{name}" for owner, name in HOOKED]
ASKED = (
    *("signature", "getfullargspec", "getsource", "getsourcelines", "getmodule"),
    *("isfunction", "ismethod", "isroutine", "isbuiltin", "ismethoddescriptor", "isdatadescriptor", "isclass"),
    *("isgeneratorfunction", "iscoroutinefunction", "isasyncgenfunction", "isawaitable"),
)
each_hook = pytest.mark.parametrize(("owner", "name"), HOOKED, ids=IDS)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


@pytest.fixture(autouse=True)
def no_fault_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert not [record for record in caplog.get_records("call") if record.name == "pool_telemetry"]


def outcome(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except Exception as error:
        return type(error), str(error)


def looks(function: Any) -> dict[str, Any]:
    """What tools and applications ask a function about."""
    asked: dict[str, Callable[[], Any]] = {name: partial(getattr(inspect, name), function) for name in ASKED}
    for name in (
        "__name__",
        "__qualname__",
        "__module__",
        "__doc__",
        "__annotations__",
        "__defaults__",
        "__kwdefaults__",
    ):
        asked[name] = partial(getattr, function, name)
    asked["is a function"] = lambda: isinstance(function, types.FunctionType)
    asked["is a method"] = lambda: isinstance(function, types.MethodType)
    asked["is callable"] = lambda: callable(function)
    asked["hints"] = lambda: typing.get_type_hints(function)
    asked["help"] = lambda: pydoc.render_doc(function) if function.__doc__ else None  # or wrapt finds no inherited one
    return {name: outcome(ask) for name, ask in asked.items()}


@each_hook
def test_a_hooked_function_looks_as_before(owner: Any, name: str, telemetry: Telemetry) -> None:
    before, bare = looks(getattr(owner, name)), getattr(owner, name)
    telemetry.install()
    hooked = getattr(owner, name)
    assert looks(hooked) == before
    assert hooked.__wrapped__ is bare
    assert inspect.unwrap(hooked) is bare
    assert inspect.unwrap(inspect.getattr_static(owner, name)) is bare


@pytest.mark.parametrize("name", ["_get_conn", "_put_conn", "urlopen", "close"])
def test_a_hooked_method_looks_as_before_on_an_object(name: str, telemetry: Telemetry, server: Server) -> None:
    with HTTPConnectionPool(server.host, server.port) as pool:
        before = looks(getattr(pool, name))
        telemetry.install()
        bound = getattr(pool, name)
        assert looks(bound) == before
        assert bound.__self__ is pool


def test_the_parts_of_the_classes_are_listed_as_before(telemetry: Telemetry) -> None:
    def listed() -> list[Any]:
        classes = (HTTPConnectionPool, HTTPConnection, HTTPSConnection, Retry)
        return [
            *(dir(owner) for owner in classes),
            *(sorted(name for name, _ in inspect.getmembers(owner, inspect.isfunction)) for owner in classes),
        ]

    before = listed()
    telemetry.install()
    assert listed() == before


def test_urllib3s_own_functions_are_called_without_a_detour(telemetry: Telemetry) -> None:
    telemetry.install()
    pool = HTTPConnectionPool("own")
    for function in (pool._get_conn, pool._put_conn):
        assert type(function) is types.MethodType
        assert type(function.__func__) is types.FunctionType
    assert type(vars(urllib3.connectionpool)["is_connection_dropped"]).__name__ == "Proxy"


def test_a_urllib3_whose_functions_take_more_is_given_it_and_watched(telemetry: Telemetry, server: Server) -> None:
    given: list[Any] = []

    def taking_more(name: str) -> Any:
        found = vars(HTTPConnectionPool)[name]

        def method(self: Any, *args: Any, to_come: str | None = None, **options: Any) -> Any:
            given.append(to_come)
            return found(self, *args, **options)

        return mock.patch.object(HTTPConnectionPool, name, method)

    class Later(HTTPConnectionPool):
        def _get_conn(self, timeout: float | None = None) -> Any:
            return super()._get_conn(timeout, to_come="get")  # type: ignore[call-arg]  # it is to come

        def _put_conn(self, conn: Any) -> None:
            super()._put_conn(conn, to_come="put")  # type: ignore[call-arg]  # it is to come as well

    with taking_more("_get_conn"), taking_more("_put_conn"):
        telemetry.install()
        with Later(server.host, server.port) as pool:
            for _ in range(3):
                assert pool.request("GET", "/ok").data == b"ok"
            metrics = telemetry.collect()
        pool_telemetry.uninstall()
    assert given == ["get", "put"] * 3
    check_laws(metrics, checkouts=3)
    assert metrics.value("urllib3.pool.checkouts", outcome="reused") == 2
    assert metrics.count("urllib3.connection.idle.duration") == 2


# mock.patch


@each_hook
def test_a_mock_with_the_specification_of_what_is_hooked_asks_for_the_same(
    owner: Any, name: str, telemetry: Telemetry
) -> None:
    def specified() -> list[Any]:
        with mock.patch.object(owner, name, autospec=True) as double:
            called = outcome(lambda: getattr(owner, name)(1, 2, 3, 4, 5, 6, 7, 8, 9, no_such_argument=10))
            return [inspect.signature(double), called, double.mock_calls]

    before = specified()
    assert before[1][0] is TypeError
    telemetry.install()
    assert specified() == before


@pytest.mark.parametrize("name", ["_get_conn", "_put_conn", "connect", "close", "increment"])
def test_a_mock_that_was_there_first_is_called_as_it_would_be_alone(name: str, telemetry: Telemetry) -> None:
    objects = {"connect": HTTPConnection("mocked"), "close": HTTPConnection("mocked"), "increment": Retry()}
    one = objects.get(name) or HTTPConnectionPool("mocked")
    with mock.patch.object(type(one), name, return_value="mocked") as double:
        telemetry.install()
        assert getattr(one, name)("a") == "mocked"
        assert double.mock_calls == [mock.call("a")]
        pool_telemetry.uninstall()
        assert vars(type(one))[name] is double


def test_a_pool_that_is_a_mock_is_no_fault(telemetry: Telemetry) -> None:
    pool = mock.Mock(spec=HTTPConnectionPool("mocked"))
    pool.pool.get.return_value = None
    telemetry.install()
    HTTPConnectionPool._get_conn(pool, timeout=1)
    HTTPConnectionPool._put_conn(pool, mock.Mock(spec=HTTPConnection))
    pool.pool.get.assert_called_once()
    pool.pool.put.assert_called_once()


def spy_on(owner: Any, name: str) -> Any:
    """mock.patch with something that counts the calls and calls the function that was there."""
    found = getattr(owner, name)
    if isinstance(owner, type):
        return mock.patch.object(owner, name, autospec=True, side_effect=found)
    return mock.patch.object(owner, name, side_effect=found)


def requests(server: Server) -> list[bytes]:
    """Requests that come by every hook but that of TLS."""
    with HTTPConnectionPool(server.host, server.port, retries=1) as pool:
        return [pool.request("GET", path).data for path in ("/ok", "/lost", "/close", "/ok")]


# The connections of urllib3 1.26 have no close() of their own.
NO_TLS = [
    (owner, name)
    for owner, name in HOOKED
    if name != "ssl_wrap_socket" and owner is not HTTPSConnection and name in vars(owner)
]
each_plain_hook = pytest.mark.parametrize(
    ("owner", "name"), NO_TLS, ids=[f"{owner.__name__}.{name}" for owner, name in NO_TLS]
)


@each_plain_hook
@pytest.mark.parametrize("order", ["mock, ours, ours, mock", "ours, mock, mock, ours"])
def test_a_spy_that_is_put_in_and_taken_out_in_good_order_sees_each_call_and_hides_none(
    owner: Any, name: str, order: str, telemetry: Telemetry, server: Server
) -> None:
    bare = inspect.getattr_static(owner, name)
    with spy_on(owner, name) as spy:
        assert requests(server) == [b"ok"] * 4
    calls = spy.call_count
    assert calls
    if order.startswith("mock"):
        with spy_on(owner, name) as spy:
            telemetry.install()
            assert requests(server) == [b"ok"] * 4
            metrics = telemetry.collect()
            pool_telemetry.uninstall()
            assert inspect.getattr_static(owner, name) is spy
    else:
        telemetry.install()
        hooked = inspect.getattr_static(owner, name)
        with spy_on(owner, name) as spy:
            assert requests(server) == [b"ok"] * 4
        assert inspect.getattr_static(owner, name) is hooked
        metrics = telemetry.collect()
        pool_telemetry.uninstall()
    assert spy.call_count == calls
    assert inspect.getattr_static(owner, name) is bare
    check_laws(metrics, checkouts=5)


@each_plain_hook
def test_a_spy_that_is_taken_out_first_though_it_came_first_takes_the_hook_along(
    owner: Any, name: str, telemetry: Telemetry, server: Server
) -> None:
    bare = inspect.getattr_static(owner, name)
    with spy_on(owner, name):
        telemetry.install()
    assert inspect.getattr_static(owner, name) is bare
    assert requests(server) == [b"ok"] * 4
    telemetry.collect()
    pool_telemetry.uninstall()
    assert inspect.getattr_static(owner, name) is bare
    assert requests(server) == [b"ok"] * 4


@each_plain_hook
def test_a_spy_that_is_taken_out_last_though_it_came_last_leaves_a_silent_hook_that_harms_nobody(
    owner: Any, name: str, telemetry: Telemetry, server: Server
) -> None:
    bare, is_own = inspect.getattr_static(owner, name), name in vars(owner)
    try:
        telemetry.install()
        with spy_on(owner, name) as spy:
            pool_telemetry.uninstall()
            assert requests(server) == [b"ok"] * 4
            assert spy.call_count
        assert inspect.unwrap(inspect.getattr_static(owner, name)) is bare
        assert requests(server) == [b"ok"] * 4
        # What is silent stays so, and another install() works.
        telemetry.install()
        before = telemetry.collect().value("urllib3.pool.checkouts")
        assert requests(server) == [b"ok"] * 4
        metrics = telemetry.collect()
        check_laws(metrics, checkouts=int(before) + 5)
        pool_telemetry.uninstall()
        assert inspect.unwrap(inspect.getattr_static(owner, name)) is bare
    finally:
        if is_own:
            setattr(owner, name, bare)
        else:
            delattr(owner, name)


def test_mocks_in_urllib3s_place_are_obeyed(telemetry: Telemetry, server: Server) -> None:
    telemetry.install()
    with HTTPConnectionPool(server.host, server.port, retries=False) as pool:
        pool.request("GET", "/ok")
        with mock.patch("urllib3.connectionpool.is_connection_dropped", return_value=True) as check:
            assert pool.request("GET", "/ok").data == b"ok"
        assert check.call_count == 1
        with (
            mock.patch("urllib3.util.connection.create_connection", side_effect=OSError("mocked")),
            pytest.raises(urllib3.exceptions.NewConnectionError, match="mocked"),
        ):
            HTTPConnectionPool(server.host, server.port, retries=False).request("GET", "/ok")
        response = mock.Mock(status=200)
        with mock.patch.object(HTTPConnectionPool, "urlopen", return_value=response):
            assert pool.request("GET", "/ok") is response
        with (
            mock.patch.object(HTTPConnectionPool, "_make_request", side_effect=ValueError("mocked")),
            pytest.raises(ValueError, match="mocked"),
        ):
            pool.request("GET", "/ok")
        assert pool.request("GET", "/ok").data == b"ok"
    check_laws(telemetry.collect())


# Subclasses


class Calls:
    """How often each overridden method was called."""

    def __init__(self) -> None:
        self.of: dict[str, int] = {}

    def count(self, name: str) -> None:
        self.of[name] = self.of.get(name, 0) + 1


def subclasses(calls: Calls, *, with_super: bool) -> type[HTTPConnectionPool]:
    """A pool and a connection that override all that is hooked: by super(), or by code of their own."""

    class Connection(HTTPConnection):
        def connect(self) -> None:
            calls.count("connect")
            if with_super:
                super().connect()
            else:
                self.sock = self._new_conn()

        def close(self) -> None:
            calls.count("close")
            if with_super:
                super().close()
            else:
                sock, self.sock = self.sock, None
                if sock is not None:
                    sock.close()
                super(HTTPConnection, self).close()  # http.client's, which ends the response too

    class Pool(HTTPConnectionPool):
        ConnectionCls = Connection

        def _new_conn(self) -> Any:
            calls.count("_new_conn")
            return super()._new_conn() if with_super else Connection(self.host, self.port)

        def _get_conn(self, timeout: float | None = None) -> Any:
            calls.count("_get_conn")
            if with_super:
                return super()._get_conn(timeout)
            assert self.pool is not None
            conn = self.pool.get(block=False)
            if conn and urllib3.util.connection.is_connection_dropped(conn):
                conn.close()
            return conn or self._new_conn()

        def _put_conn(self, conn: Any) -> None:
            calls.count("_put_conn")
            if with_super:
                super()._put_conn(conn)
            else:
                assert self.pool is not None
                self.pool.put(conn, block=False)

        def urlopen(self, *args: Any, **options: Any) -> Any:
            calls.count("urlopen")
            return super().urlopen(*args, **options)

    return Pool


@pytest.mark.parametrize("with_super", [True, False])
def test_subclasses_that_override_all_of_it_work_as_before(
    with_super: bool, telemetry: Telemetry, server: Server
) -> None:
    def run() -> tuple[list[bytes], dict[str, int]]:
        calls = Calls()
        pool = subclasses(calls, with_super=with_super)(server.host, server.port, retries=1)
        data = [pool.request("GET", path).data for path in ("/ok", "/ok", "/lost", "/close", "/ok")]
        unread = pool.request("GET", "/ok", preload_content=False)
        unread.close()
        unread.release_conn()
        data.append(pool.request("GET", "/ok").data)
        pool.close()
        return data, calls.of

    before = run()
    assert len(before[1]) == 6
    telemetry.install()
    assert run() == before
    metrics = telemetry.collect()
    if with_super:
        check_laws(metrics, checkouts=before[1]["_get_conn"])
        assert metrics.value("urllib3.pool.opened_connections") == before[1]["connect"]
        assert metrics.value("http.client.open_connections") == 0
    else:
        check_laws(metrics, checkouts=0)  # what goes past our hooks is not seen
    pool_telemetry.uninstall()
    assert run() == before
