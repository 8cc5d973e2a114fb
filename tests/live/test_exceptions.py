"""What a request fails with is the same with us as without: its type, its chain, its notes, and its traceback."""

from __future__ import annotations

import contextlib
import gc
import re
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
import urllib3

from misbehaving import Proxy, Server
from tests.live.wire import before_sending, chunks, fin, rst
from tests.support import Telemetry

NOBODY_LISTENS = 1  # a port
# An exception, and what it has in hand, is a cycle: its sockets are closed when that is collected.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
#: What differs from one run to the next: addresses in memory, and ports.
PASSING = re.compile(r"0x[0-9a-f]+|(?<=:)\d{4,5}\b|(?<=port=)\d{4,5}\b")
#: Between a hook and what it hooks: wrapt, where it is not compiled.
WRAPPERS = ("pool_telemetry", "wrapt")


class Portrait:
    """All that can be seen of an exception, and of those behind it."""

    def __init__(self, error: BaseException) -> None:
        self.seen: list[Any] = []
        self._known: list[BaseException] = []
        self.ours = 0
        self._look(error)

    def _look(self, error: Any) -> None:
        if any(error is each for each in self._known):
            self.seen.append("seen before")
            return
        self._known.append(error)
        self.seen.append((type(error), str(error.__suppress_context__), getattr(error, "__notes__", None)))
        self.seen.append(self._value(str(error)))
        self.seen.append([self._value(each) for each in error.args])
        self.seen.append({name: self._value(value) for name, value in vars(error).items()})
        self.seen.append(self._frames(error))
        for name in ("__cause__", "__context__"):
            other = getattr(error, name)
            self.seen.append(name)
            if other is not None:
                self._look(other)

    def _value(self, value: Any) -> str:
        return PASSING.sub("…", repr(value))

    def _frames(self, error: BaseException) -> list[tuple[str, str, int]]:
        frames = []
        traceback = error.__traceback__
        while traceback is not None:
            code = traceback.tb_frame.f_code
            module = str(traceback.tb_frame.f_globals.get("__name__"))
            if module.split(".")[0] in WRAPPERS:
                self.ours += 1
            else:
                frames.append((module, code.co_name, traceback.tb_lineno))
            traceback = traceback.tb_next
        return frames


@pytest.fixture(scope="module", autouse=True)
def no_garbage_is_left() -> Iterator[None]:
    """Its sockets would be told of in the midst of another test, which does not expect them."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, Server]]:
    with Server() as plain, Server(tls="1.3") as tls:
        yield {"plain": plain, "tls": tls}


Servers = dict[str, Server]


def pool_of(servers: Servers, **options: Any) -> urllib3.HTTPConnectionPool:
    return urllib3.HTTPConnectionPool(servers["plain"].host, servers["plain"].port, **options)


# The ways


def refused(servers: Servers, retries: Any) -> None:
    urllib3.HTTPConnectionPool("127.0.0.1", NOBODY_LISTENS).request("GET", "/ok", retries=retries)


def unknown_name(servers: Servers, retries: Any) -> None:
    urllib3.HTTPConnectionPool("nowhere.invalid", 80).request("GET", "/ok", retries=retries)


def impossible_name(servers: Servers, retries: Any) -> None:
    urllib3.HTTPConnectionPool("a" * 64 + ".example", 80).request("GET", "/ok", retries=retries)


def untrusted(servers: Servers, retries: Any) -> None:
    with urllib3.HTTPSConnectionPool("localhost", servers["tls"].port) as pool:
        pool.request("GET", "/ok", retries=retries)


def untrusted_by_fingerprint(servers: Servers, retries: Any) -> None:
    options: dict[str, Any] = {"cert_reqs": "CERT_NONE", "assert_fingerprint": "00" * 32}
    with urllib3.HTTPSConnectionPool("localhost", servers["tls"].port, **options) as pool:
        pool.request("GET", "/ok", retries=retries)


def no_handshake(servers: Servers, retries: Any) -> None:
    silent = socket.create_server(("127.0.0.1", 0))
    with silent, urllib3.HTTPSConnectionPool("127.0.0.1", silent.getsockname()[1], timeout=0.01) as pool:
        pool.request("GET", "/ok", retries=retries)


def read_timeout(servers: Servers, retries: Any) -> None:
    with pool_of(servers, timeout=urllib3.Timeout(read=0.01)) as pool:
        pool.request("GET", "/hang", retries=retries)


def of_path(path: str) -> Callable[[Servers, Any], None]:
    def way(servers: Servers, retries: Any) -> None:
        with pool_of(servers) as pool:
            pool.request("GET", "/ok")
            pool.request("GET", path, retries=retries, enforce_content_length=True)

    return way


def lost_while_sending(deed: Callable[[Server], Callable[[Any], None]]) -> Callable[[Servers, Any], None]:
    def way(servers: Servers, retries: Any) -> None:
        with pool_of(servers) as pool:
            pool.request("GET", "/ok")
            before_sending(pool, deed(servers["plain"]))
            pool.request("POST", "/ok", body=b"x", retries=retries)

    return way


def lost_over_tls(servers: Servers, retries: Any) -> None:
    server = servers["tls"]
    with urllib3.HTTPSConnectionPool("localhost", server.port, ca_certs=server.ca_file) as pool:
        pool.request("GET", "/ok")
        pool.request("GET", "/lost-rst", retries=retries)


def read_later(path: str) -> Callable[[Servers, Any], None]:
    def way(servers: Servers, retries: Any) -> None:
        with pool_of(servers) as pool:
            response: Any = pool.request(
                "GET", path, preload_content=False, retries=retries, enforce_content_length=True
            )
            response.connection.sock.settimeout(0.05)  # not before the head is there
            response.read()

    return way


def empty_pool(servers: Servers, retries: Any) -> None:
    with pool_of(servers, maxsize=1, block=True) as pool:
        out = pool.request("GET", "/ok", preload_content=False)
        try:
            pool.request("GET", "/ok", pool_timeout=0.001, retries=retries)
        finally:
            out.read()


def closed_pool(servers: Servers, retries: Any) -> None:
    pool = pool_of(servers)
    pool.request("GET", "/ok")
    pool.close()
    pool.request("GET", "/ok", retries=retries)


def full_pool(servers: Servers, retries: Any) -> None:
    with pool_of(servers, maxsize=1, block=True) as pool:
        pool.request("GET", "/ok")
        pool._put_conn(pool._new_conn())


def another_host(servers: Servers, retries: Any) -> None:
    with pool_of(servers) as pool:
        pool.urlopen("GET", "http://elsewhere.invalid/ok", retries=retries)


def refusing_proxy(servers: Servers, retries: Any) -> None:
    proxy = urllib3.ProxyManager(f"http://127.0.0.1:{NOBODY_LISTENS}")
    proxy.request("GET", servers["tls"].url + "/ok", retries=retries)


def proxy_that_does_not_tunnel(servers: Servers, retries: Any) -> None:
    with Proxy(fail_connect=True) as proxy:
        urllib3.ProxyManager(proxy.url).request("GET", servers["tls"].url + "/ok", retries=retries)


def too_many_redirects(servers: Servers, retries: Any) -> None:
    with pool_of(servers) as pool:
        pool.request("GET", "/redirect/redirect/ok", retries=urllib3.Retry(redirect=1))


def wrong_status(servers: Servers, retries: Any) -> None:
    with pool_of(servers) as pool:
        pool.request("GET", "/status/503", retries=urllib3.Retry(1, status_forcelist=[503]))


class OwnError(Exception):
    """The application's."""


def failing_body(kind: type[BaseException]) -> Callable[[Servers, Any], None]:
    def way(servers: Servers, retries: Any) -> None:
        def fail() -> None:
            error = kind("of the application", 1)
            if sys.version_info >= (3, 11):
                error.add_note("a note")
            try:
                int("nothing")
            except ValueError as cause:
                raise error from cause

        with pool_of(servers) as pool:
            pool.request("GET", "/ok")
            pool.request("POST", "/ok", body=chunks(b"x", fail), retries=retries)

    return way


def while_another_is_handled(servers: Servers, retries: Any) -> None:
    try:
        raise OwnError("before")
    except OwnError:
        of_path("/lost")(servers, retries)


def of_requests(path: str) -> Callable[[Servers, Any], None]:
    def way(servers: Servers, retries: Any) -> None:
        with requests.Session() as session:
            session.get(servers["plain"].url + "/ok")
            session.get(servers["plain"].url + path, timeout=0.05)

    return way


WAYS: dict[str, Callable[[Servers, Any], None]] = {
    "refused": refused,
    "unknown name": unknown_name,
    "impossible name": impossible_name,
    "untrusted": untrusted,
    "wrong fingerprint": untrusted_by_fingerprint,
    "no handshake": no_handshake,
    "read timeout": read_timeout,
    "lost": of_path("/lost"),
    "lost by RST": of_path("/lost-rst"),
    "lost unread": of_path("/lost-unread"),
    "lost over TLS": lost_over_tls,
    "FIN before sending": lost_while_sending(fin),
    "RST before sending": lost_while_sending(rst),
    "no HTTP": of_path("/garbage"),
    "half a status line": of_path("/partial-rst"),
    "half a head": of_path("/partial-head-rst"),
    "half a body": of_path("/truncate"),
    "half a body, read later": read_later("/truncate"),
    "slow body, read later": read_later("/chunked/2/1"),
    "empty pool": empty_pool,
    "closed pool": closed_pool,
    "full pool": full_pool,
    "another host": another_host,
    "refusing proxy": refusing_proxy,
    "proxy that does not tunnel": proxy_that_does_not_tunnel,
    "too many redirects": too_many_redirects,
    "wrong status": wrong_status,
    "body": failing_body(OwnError),
    "body, OSError": failing_body(OSError),
    "body, interrupt": failing_body(KeyboardInterrupt),
    "while another is handled": while_another_is_handled,
    "requests, lost": of_requests("/lost"),
    "requests, timeout": of_requests("/hang"),
}
#: In urllib3 1 this is a warning.
MAY_SUCCEED = ("full pool",)


def portrait(way: Callable[[Servers, Any], None], servers: Servers, retries: Any) -> Portrait | None:
    try:
        way(servers, retries)
    except BaseException as error:
        return Portrait(error)
    return None


@pytest.mark.parametrize("spans", ["notable", "all"])
@pytest.mark.parametrize("retries", [False, 1], ids=["no retries", "a retry"])
@pytest.mark.parametrize("way_name", WAYS)
def test_a_request_fails_as_without_us(
    telemetry: Telemetry,
    servers: Servers,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    way_name: str,
    retries: Any,
    spans: str,
) -> None:
    if way_name == "unknown name":
        # Who would look for it may take long.
        monkeypatch.setattr(socket, "getaddrinfo", no_such_name)
    way = WAYS[way_name]
    budget = urllib3.Retry(1, backoff_factor=0) if retries else False
    without = portrait(way, servers, budget)
    telemetry.install(metrics="all", spans=spans)
    with telemetry.tracer.start_as_current_span("request") if spans == "all" else contextlib.nullcontext():
        with_us = portrait(way, servers, budget)
    if without is None:  # the retry was as good as another
        assert retries or way_name in MAY_SUCCEED
        assert with_us is None
        return
    assert with_us is not None
    assert with_us.seen == without.seen
    assert without.ours == 0
    assert not [record for record in caplog.records if record.name == "pool_telemetry"]


def no_such_name(*_: Any, **__: Any) -> Any:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


def test_the_portraits_tell_one_failure_from_another(servers: Servers) -> None:
    ways = (
        "refused",
        "untrusted",
        "lost",
        "lost by RST",
        "no HTTP",
        "half a body",
        "empty pool",
        "closed pool",
        "body",
    )
    seen = [portrait(WAYS[name], servers, False) for name in ways]
    assert all(seen)
    assert len({str(each.seen) for each in seen if each}) == len(ways)
