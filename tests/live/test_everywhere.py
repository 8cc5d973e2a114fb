"""Through every transport that urllib3 knows: the request goes as without us, and what is told of it is right."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import http.client
import importlib
import io
import logging
import os
import select
import socket
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import OpenSSL.SSL
import pytest
import requests
import urllib3
import urllib3.connection
import urllib3.contrib.socks
import wrapt
from docker.transport import UnixHTTPAdapter
from opentelemetry import context, trace
from opentelemetry.trace import StatusCode, propagation
from requests_unixsocket.adapters import UnixAdapter
from urllib3._version import __version__ as VERSION  # noqa: N812 - a constant, whatever it is called there

import pool_telemetry
from misbehaving import Proxy, Server, SocksProxy
from pool_telemetry import _instrument
from pool_telemetry._marks import MARK
from tests.live.real_servers import start_or_skip
from tests.support import NOT_TO_BE_HAD, Metrics, Telemetry, check_laws, manager

MARKER = "zq7secret"
RETRY = urllib3.Retry(3, status_forcelist=[503], raise_on_status=False)
IS_LINUX = sys.platform == "linux"


@dataclass
class Way:
    """One way to a server, with what is to be told of it."""

    server: Server
    fetch: Callable[..., tuple[Any, ...]]
    pools: Callable[[], list[Any]]
    upstream: dict[str, Any]
    phases: tuple[str, ...]
    proxy: Proxy | SocksProxy | None = None
    is_forwarded: bool = False
    is_relayed: bool = False
    is_tcp: bool = True
    only_one_connection: str = ""
    """Why a pool cannot open a second one, whoever watches."""

    def needs_several_connections(self) -> None:
        """Skip the test where a pool cannot open a second connection."""
        if self.only_one_connection:
            pytest.skip(f"missing: {self.only_one_connection}")

    @property
    def label(self) -> str:
        """The upstream as span names have it."""
        port = self.upstream.get("server.port")
        return str(self.upstream["server.address"]) + ("" if port is None else f":{port}")

    def drop_pooled(self) -> None:
        """Make what lies in the pool a drop, by a FIN of whoever holds its other end; returns when it has come."""
        if self.is_forwarded:
            assert isinstance(self.proxy, Proxy)
            self.proxy.drop_idle(0.01)
        else:
            for connection in self.server.connections:
                connection.fin()
        await_hangup(self.pools())
        if isinstance(self.proxy, Proxy):
            self.proxy.drop_idle(None)


def await_hangup(pools: list[Any]) -> None:
    """Wait until the peer has hung up on all that lies in these pools."""
    hung_up = getattr(select, "POLLRDHUP", select.POLLHUP)
    socks = [conn.sock for pool in pools for conn in tuple(pool.pool.queue) if conn and conn.sock is not None]
    assert socks, "nothing is pooled"
    for sock in socks:
        poll = select.poll()
        poll.register(sock.fileno(), hung_up)
        assert poll.poll(5000), "the peer did not hang up"


def upstream(address: str, port: int | None, scheme: str) -> dict[str, Any]:
    attributes: dict[str, Any] = {"server.address": address, "url.scheme": scheme}
    return attributes if port is None else {**attributes, "server.port": port}


def pooled_fetch(http: Any, base: str) -> Callable[..., tuple[Any, ...]]:
    """``fetch(method, path)`` of a PoolManager: all that the application can see, an error included."""

    def fetch(method: str, path: str, *, stream: bool = False, **options: Any) -> tuple[Any, ...]:
        try:
            response = http.request(
                method, base + path, preload_content=not stream, **{"retries": RETRY, "timeout": 10, **options}
            )
            body = b"".join(response.stream(7)) if stream else response.data
            response.release_conn()
        except Exception as error:
            return type(error), type(getattr(error, "reason", None))
        return response.status, sorted(response.headers.items()), body

    return fetch


def session_fetch(session: requests.Session, base: str) -> Callable[..., tuple[Any, ...]]:
    """The same of a requests Session."""

    def fetch(method: str, path: str, *, stream: bool = False, body: Any = None, **_: Any) -> tuple[Any, ...]:
        try:
            response = session.request(method, base + path, data=body, stream=stream, timeout=60)
            content = b"".join(response.iter_content(7)) if stream else response.content
        except Exception as error:
            return type(error), None
        return response.status_code, sorted(response.headers.items()), content

    return fetch


def pools_of(http: Any) -> Callable[[], list[Any]]:
    def pools() -> list[Any]:
        return list(http._container.values())

    return pools


def with_secrets(url: str) -> str:
    """The URL with a user and a password."""
    return url.replace("://", f"://{MARKER}-user:{MARKER}-password@")


def direct(server: Server, address: str, phases: tuple[str, ...], **options: Any) -> Way:
    http = manager(server.ca_file, **options)
    scheme = "https" if server.tls else "http"
    base = f"{scheme}://{f'[{address}]' if ':' in address else address}:{server.port}"
    fetch = pooled_fetch(http, with_secrets(base))
    return Way(server, fetch, pools_of(http.pools), upstream(address, server.port, scheme), phases)


@contextlib.contextmanager
def plain() -> Iterator[Way]:
    with Server() as server:
        yield direct(server, "127.0.0.1", ("connect",))


@contextlib.contextmanager
def named() -> Iterator[Way]:
    with Server() as server:
        yield direct(server, "localhost", ("dns", "connect"))


@contextlib.contextmanager
def ipv6() -> Iterator[Way]:
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(Server(host="::1"))
        except OSError as error:
            pytest.skip(f"missing: IPv6 on the loopback: {error}")
        yield direct(server, "::1", ("connect",))


@contextlib.contextmanager
def tls(version: str) -> Iterator[Way]:
    with Server(tls=version) as server:
        yield direct(server, "localhost", ("dns", "connect", "tls"))


def can_change_used_context() -> bool:
    context = OpenSSL.SSL.Context(OpenSSL.SSL.TLS_METHOD)
    OpenSSL.SSL.Connection(context, None)
    try:
        context.set_verify_depth(3)
    except ValueError:
        return False
    return True


@contextlib.contextmanager
def pyopenssl() -> Iterator[Way]:
    with warnings.catch_warnings():
        # urllib3 and pyOpenSSL both discourage it by now.
        warnings.simplefilter("ignore")
        try:
            contrib = importlib.import_module("urllib3.contrib.pyopenssl")
        except ImportError as error:
            pytest.skip(f"missing: a pyOpenSSL for urllib3 {VERSION}: {error}")
        contrib.inject_into_urllib3()
        try:
            assert urllib3.util.IS_PYOPENSSL
            with Server(tls="1.3") as server:
                way = direct(server, "localhost", ("dns", "connect", "tls"))
                if VERSION.startswith("1.") and not can_change_used_context():
                    way.only_one_connection = "a pyOpenSSL before 25, for urllib3 1.26 changes a context in use"
                yield way
        finally:
            contrib.extract_from_urllib3()


@contextlib.contextmanager
def proxied(server: Server, proxy: Proxy, base: str, *, is_https_forwarded: bool = False, **told: Any) -> Iterator[Way]:
    with tempfile.TemporaryDirectory(prefix="authorities-") as folder:
        authorities = Path(folder) / "ca.pem"
        authorities.write_text("".join(Path(each.ca_file).read_text() for each in (server, proxy) if each.ca_file))
        options: dict[str, Any] = {"use_forwarding_for_https": is_https_forwarded}
        if proxy.ca_file:
            options["proxy_ssl_context"] = proxy.client_context()
        if server.ca_file or proxy.ca_file:
            options["ca_certs"] = str(authorities)
        http = urllib3.ProxyManager(with_secrets(proxy.url), **options)
        yield Way(server, pooled_fetch(http, with_secrets(base)), pools_of(http.pools), proxy=proxy, **told)


@contextlib.contextmanager
def forwarded(by_tls: bool) -> Iterator[Way]:
    with (
        Server() as server,
        Proxy(tls=by_tls) as proxy,
        proxied(
            server,
            proxy,
            server.url,
            upstream=upstream(
                "localhost" if by_tls else "127.0.0.1",
                proxy.port,
                "https" if by_tls else "http",
            ),
            phases=("dns", "connect", "proxy") if by_tls else ("connect",),
            is_forwarded=True,
        ) as way,
    ):
        yield way


@contextlib.contextmanager
def forwarded_https() -> Iterator[Way]:
    # An HTTPS URL that the proxy is sent as it is; what it then speaks to the origin is its own affair.
    with (
        Server() as server,
        Proxy(tls=True) as proxy,
        proxied(
            server,
            proxy,
            f"https://127.0.0.1:{server.port}",
            upstream=upstream("localhost", proxy.port, "https"),
            phases=("dns", "connect", "proxy"),
            is_forwarded=True,
            is_https_forwarded=True,
        ) as way,
    ):
        yield way


@contextlib.contextmanager
def tunnelled(by_tls: bool) -> Iterator[Way]:
    with (
        Server(tls="1.3") as server,
        Proxy(tls=by_tls) as proxy,
        proxied(
            server,
            proxy,
            server.url,
            upstream=upstream("localhost", server.port, "https"),
            phases=("dns", "connect", "proxy", "tls") if by_tls else ("connect", "proxy", "tls"),
            is_relayed=True,
        ) as way,
    ):
        yield way


@contextlib.contextmanager
def socks(by_tls: bool) -> Iterator[Way]:
    with Server(tls="1.2" if by_tls else None) as server, SocksProxy() as proxy:
        http = urllib3.contrib.socks.SOCKSProxyManager(proxy.url, ca_certs=server.ca_file)
        yield Way(
            server,
            pooled_fetch(http, with_secrets(server.url)),
            pools_of(http.pools),
            upstream("localhost" if by_tls else "127.0.0.1", server.port, "https" if by_tls else "http"),
            # PySocks connects by itself.
            ("tls",) if by_tls else (),
            proxy=proxy,
            is_relayed=True,
        )


@contextlib.contextmanager
def unix(by_docker: bool) -> Iterator[Way]:
    # A unix socket's path is short; those of tmp_path are not.
    with (
        tempfile.TemporaryDirectory(prefix="unix-") as folder,
        Server(unix_path=os.path.join(folder, "s")) as server,
        requests.Session() as session,
    ):
        session.trust_env = False
        assert server.unix_path is not None
        if by_docker:
            adapter: Any = UnixHTTPAdapter(f"http+unix://{server.unix_path}", timeout=60)
            session.mount("http+docker://", adapter)
            base = "http+docker://localhost"
        else:
            adapter = UnixAdapter(timeout=60)
            session.mount("http+unix://", adapter)
            base = server.url
        fetch = session_fetch(session, base)
        yield Way(server, fetch, pools_of(adapter.pools), upstream(server.unix_path, None, "http"), (), is_tcp=False)


WAYS: dict[str, Callable[[], contextlib.AbstractContextManager[Way]]] = {
    "plain": plain,
    "plain by name": named,
    "plain over IPv6": ipv6,
    "TLS 1.2": lambda: tls("1.2"),
    "TLS 1.3": lambda: tls("1.3"),
    "pyOpenSSL": pyopenssl,
    "forwarded by an HTTP proxy": lambda: forwarded(False),
    "forwarded by an HTTPS proxy": lambda: forwarded(True),
    "HTTPS forwarded by an HTTPS proxy": forwarded_https,
    "tunnel through an HTTP proxy": lambda: tunnelled(False),
    "tunnel through an HTTPS proxy": lambda: tunnelled(True),
    "SOCKS": lambda: socks(False),
    "TLS over SOCKS": lambda: socks(True),
    "unix socket by docker": lambda: unix(True),
    "unix socket by requests_unixsocket": lambda: unix(False),
}
each_way = pytest.mark.parametrize("way_name", WAYS)


def use(way: Way) -> list[tuple[Any, ...]]:
    """Requests of every kind, and what the application sees of them."""
    path = f"{MARKER}-path?{MARKER}-query=1"
    return [
        way.fetch("GET", f"/ok/{path}"),
        way.fetch("POST", f"/ok/{path}", body=iter([b"in ", b"chunks"])),
        way.fetch("GET", f"/chunked/5/0?{path}"),
        way.fetch("GET", f"/chunked/5/0?{path}", stream=True),
        way.fetch("GET", f"/big/100000?{path}", stream=True),
        way.fetch("GET", f"/status/503?{path}"),
        way.fetch("GET", f"/redirect/ok/{path}"),
        way.fetch("GET", f"/close?{path}"),
        way.fetch("GET", f"/lost?{path}"),
        way.fetch("GET", f"/lost?{path}"),
        way.fetch("POST", f"/lost?{path}", body=b"once"),
        *(way.fetch("GET", f"/lost?{path}") for _ in range(3)),
        way.fetch("GET", f"/truncate?{path}"),
        way.fetch("GET", f"/ok/{path}"),
    ]


def everything_told(telemetry: Telemetry, metrics: Metrics) -> list[Any]:
    """Every name and value that has left this process."""
    told: list[Any] = []
    for span in telemetry.spans:
        told += [span.name, span.status.description, *(span.attributes or {}).values()]
        told += [value for link in span.links for value in (link.attributes or {}).values()]
        told += [value for event in span.events for value in (event.attributes or {}).values()]
    for name in metrics.names:
        told += [value for point in metrics.points(name) for value in point.attributes.values()]
    snapshot, page = pool_telemetry.snapshot(), io.StringIO()
    pool_telemetry.report(page)
    told += [snapshot.to_json(), snapshot.to_dict(), repr(snapshot), page.getvalue()]
    findings = pool_telemetry.diagnose(snapshot)
    told += [value for finding in findings for value in dataclasses.astuple(finding)] + [repr(findings)]
    assert _instrument._ledger is not None
    told += [repr(each) for book in _instrument._ledger._books.values() for each in (*book.pools, *book.connections)]
    return told


@each_way
def test_requests_go_as_without_us_and_the_laws_hold(
    telemetry: Telemetry, caplog: pytest.LogCaptureFixture, way_name: str
) -> None:
    caplog.set_level(logging.DEBUG, "pool_telemetry")
    with WAYS[way_name]() as way:
        way.needs_several_connections()
        as_usual = use(way)
        assert as_usual[0][0] == 200, as_usual
    telemetry.install(spans="all", metrics="all")
    with WAYS[way_name]() as way, telemetry.tracer.start_as_current_span("request"):
        assert use(way) == as_usual
        books, metrics = way.server.books, telemetry.collect()
        check_laws(metrics, checkouts=books.requests, **way.upstream)
        if not way.is_forwarded:
            assert metrics.value("urllib3.pool.opened_connections", **way.upstream) == books.accepted
        told = everything_told(telemetry, metrics)
        assert len(told) > 100
        assert ("lost_races" in told) is not way.is_forwarded  # such a proxy answers in the server's place
        assert [each for each in told if MARKER in str(each) or "/ok" in str(each)] == []
    assert [record for record in caplog.records if record.name == "pool_telemetry"] == []


@each_way
def test_the_upstream_is_where_the_connection_leads(telemetry: Telemetry, way_name: str) -> None:
    with WAYS[way_name]() as way:
        telemetry.install(spans="all", metrics="all")
        with telemetry.tracer.start_as_current_span("request"):
            assert way.fetch("GET", "/ok")[0] == 200
        metrics = telemetry.collect()
        for name in metrics.names:
            for point in metrics.points(name):
                keys = ("server.address", "server.port", "url.scheme")
                assert {key: point.attributes[key] for key in keys if key in point.attributes} == way.upstream, name
        names = {span.name for span in telemetry.spans}
        assert {f"HTTP connection_setup {way.label}", f"HTTP connection_checkout {way.label}"} <= names


@each_way
def test_a_set_up_is_told_with_its_phases(telemetry: Telemetry, way_name: str) -> None:
    with WAYS[way_name]() as way:
        telemetry.install(metrics="all")
        assert way.fetch("GET", "/ok")[0] == 200
        metrics = telemetry.collect()
        phases = metrics.points("urllib3.connection.setup.phase.duration")
        # "localhost" may have an address at which nobody listens.
        good = [point for point in phases if "error.type" not in point.attributes]
        assert sorted(point.attributes["urllib3.connection.setup.phase"] for point in good) == sorted(way.phases)
        assert {point.count for point in good} <= {1}
        (whole,) = metrics.points("urllib3.connection.setup.duration")
        assert whole.count == 1
        assert "error.type" not in whole.attributes
        assert sum(point.sum for point in phases) <= whole.sum
        (setup,) = telemetry.named("HTTP connection_setup")
        children = [span for span in telemetry.spans if span.parent and span.parent.span_id == setup.context.span_id]
        assert len(children) == sum(point.count for point in phases)
        peer = (setup.attributes or {})["network.peer.address"]
        if not way.is_tcp:
            assert peer == way.server.unix_path
        else:
            other_end = way.proxy or way.server
            assert (peer, (setup.attributes or {})["network.peer.port"]) == (other_end.host, other_end.port)


@each_way
def test_a_drop_is_seen_at_checkout_with_its_reason(telemetry: Telemetry, way_name: str) -> None:
    with WAYS[way_name]() as way:
        telemetry.install(metrics="all")
        way.needs_several_connections()
        assert way.fetch("GET", "/ok")[0] == 200
        way.drop_pooled()
        with telemetry.tracer.start_as_current_span("request"):
            assert way.fetch("GET", "/ok")[0] == 200
        metrics = telemetry.collect()
        check_laws(metrics, checkouts=2)
        assert metrics.by("urllib3.pool.checkouts", "outcome") == {"new": 1, "replaced": 1}
        (drop,) = [point for point in metrics.points("urllib3.pool.dropped_connections") if point.value]
        assert drop.attributes["urllib3.connection.drop.phase"] == "checkout"
        assert drop.attributes["urllib3.connection.drop.reason"] == "fin"
        assert metrics.by("urllib3.pool.closed_connections", "reason") == {"dropped": 1}
        assert metrics.count("urllib3.connection.setup.duration", cause="replaced") == 1
        assert metrics.count("urllib3.connection.idle.duration", outcome="replaced") == 1
        (span,) = telemetry.named(f"HTTP connection_dropped {way.label}")
        knows_fin = IS_LINUX and way.is_tcp and not way.is_relayed
        assert metrics.count("urllib3.connection.remote_close.duration") == knows_fin
        assert ("urllib3.connection.remote_close.duration" in (span.attributes or {})) == knows_fin
        state = (span.attributes or {}).get("network.connection.state")
        assert state == ("close_wait" if IS_LINUX and way.is_tcp else None)


@each_way
def test_closing_the_pools_closes_what_they_hold(telemetry: Telemetry, way_name: str) -> None:
    with WAYS[way_name]() as way:
        telemetry.install()
        assert way.fetch("GET", "/ok")[0] == 200
        (pool,) = way.pools()
        pool.close()
        metrics = telemetry.collect()
        check_laws(metrics, checkouts=1)
        assert metrics.by("urllib3.pool.closed_connections", "reason") == {"pool_closed": 1}
        assert metrics.value("urllib3.pool.count") == 0
        with pytest.raises(urllib3.exceptions.ClosedPoolError):
            pool._get_conn()
        assert telemetry.collect().by("urllib3.pool.checkouts", "outcome") == {"new": 1, "pool_closed": 1}


# HTTP/2


@pytest.fixture
def http2() -> Iterator[None]:
    try:
        http2 = importlib.import_module("urllib3.http2")
        inject, extract = http2.inject_into_urllib3, http2.extract_from_urllib3
    except (ImportError, AttributeError):
        pytest.skip(f"{NOT_TO_BE_HAD}: urllib3.http2.inject_into_urllib3 in urllib3 {VERSION}")
    inject()
    try:
        yield
    finally:
        extract()


@pytest.mark.usefixtures("http2")
def test_http2_is_told_as_such(telemetry: Telemetry, tmp_path: Path) -> None:
    telemetry.install(metrics="all")
    with start_or_skip("hypercorn", tls=True, keepalive=1, folder=tmp_path) as server:
        http = manager(server.ca_file)
        for _ in range(3):
            response = http.request("GET", f"{server.url}/ok")
            assert (response.status, response.version, response.data) == (200, 20, b"ok")
        metrics = telemetry.collect()
        check_laws(metrics, checkouts=3)
        assert metrics.by("http.client.open_connections", "network.protocol.version") == {
            "2": metrics.value("urllib3.pool.opened_connections") - metrics.value("urllib3.pool.closed_connections")
        }
        assert {"connect", "tls"} <= {
            point.attributes["urllib3.connection.setup.phase"]
            for point in metrics.points("urllib3.connection.setup.phase.duration")
        }


# Retries, redirects, pools


def test_each_retry_and_redirect_is_a_checkout_of_the_pool_it_goes_to(telemetry: Telemetry) -> None:
    telemetry.install()
    with Server() as first, Server() as second:
        http = manager()
        assert http.request("GET", f"{first.url}/status/503", retries=RETRY).status == 503
        # A redirect across pools: the test server names a path only, so it is told to name another's.
        assert http.request("GET", f"{first.url}/redirect//127.0.0.1:{second.port}/ok").data == b"ok"
        metrics = telemetry.collect()
        assert first.books.requests == 5
        check_laws(metrics, checkouts=5, server__port=first.port)
        check_laws(metrics, checkouts=1, server__port=second.port)


def test_an_evicted_pool_ends_with_what_it_holds(telemetry: Telemetry) -> None:
    telemetry.install()
    with Server() as first, Server() as second:
        http = manager(num_pools=1)
        http.request("GET", f"{first.url}/ok")
        http.request("GET", f"{second.url}/ok")
        gc.collect()
        first.wait_for(lambda books: books.open == 0)
        metrics = telemetry.collect()
        check_laws(metrics, checkouts=2)
        assert metrics.value("urllib3.pool.count", server__port=first.port) == 0
        assert metrics.value("urllib3.pool.creations") == 2
        closed = metrics.by("urllib3.pool.closed_connections", "reason", server__port=first.port)
        assert closed == {"pool_closed": 1}


def test_what_was_out_while_its_pool_was_closed_is_closed_by_the_pool(telemetry: Telemetry) -> None:
    telemetry.install()
    with Server() as server:
        http = manager()
        response = http.request("GET", f"{server.url}/big/100", preload_content=False)
        (pool,) = pools_of(http.pools)()
        pool.close()
        assert response.read() == b"x" * 100
        response.release_conn()
        server.wait_for(lambda books: books.open == 0)
        metrics = telemetry.collect()
        check_laws(metrics, checkouts=1)
        assert metrics.by("urllib3.pool.closed_connections", "reason") == {"pool_closed": 1}
        assert metrics.value("urllib3.pool.leaked_connections") == 0


# Set-ups that fail


def failed_setup(telemetry: Telemetry) -> tuple[str, dict[str, str]]:
    """The error of the only set-up, and those of its phases; the same in metrics and in spans."""
    metrics = telemetry.collect()
    check_laws(metrics)
    (whole,) = metrics.points("urllib3.connection.setup.duration")
    (setup,) = telemetry.named("HTTP connection_setup")
    error = str(whole.attributes["error.type"])
    assert (setup.attributes or {})["error.type"] == error
    assert setup.status.status_code is StatusCode.ERROR
    assert setup.status.description is None
    phases = {
        point.attributes["urllib3.connection.setup.phase"]: point.attributes.get("error.type")
        for point in metrics.points("urllib3.connection.setup.phase.duration")
    }
    failed = [span for span in telemetry.spans if span.parent and span.status.status_code is StatusCode.ERROR]
    of_phases = sorted(str((span.attributes or {})["error.type"]) for span in failed)
    assert of_phases == sorted(filter(None, phases.values()))
    assert metrics.value("urllib3.pool.opened_connections") == 0
    assert metrics.value("urllib3.pool.leaked_connections") == 0
    return error, phases


def fail(http: Any, url: str) -> BaseException:
    with pytest.raises(urllib3.exceptions.HTTPError) as caught:
        http.request("GET", f"{url}/ok/{MARKER}", retries=False)
    return caught.value


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


ERRORS: dict[str, Callable[[urllib3.PoolManager, Server], object]] = {
    "refused": lambda http, _: http.request("GET", f"http://127.0.0.1:{free_port()}/{MARKER}?{MARKER}#{MARKER}"),
    "no URL": lambda http, _: http.request("GET", f"http://{MARKER}@127.0.0.1:{MARKER}/"),
    "no response": lambda http, server: http.request("GET", f"{server.url}/garbage?{MARKER}"),
    "read timeout": lambda http, server: http.request("GET", f"{server.url}/hang?{MARKER}", timeout=0.05),
    "too many redirects": lambda http, server: http.request("GET", f"{server.url}/redirect/{MARKER}", retries=0),
    "a bad header": lambda http, server: http.request("GET", server.url, headers={f"X:{MARKER}": f"{MARKER}\n"}),
    "a bad proxy": lambda _, server: urllib3.ProxyManager(
        with_secrets(f"http://127.0.0.1:{free_port()}"), headers={"Authorization": MARKER}
    ).request("GET", f"{server.url}/{MARKER}"),
    "an exception of the application's": lambda http, server: http.request("POST", server.url, body=broken_off()),
    "a user for a host": lambda _, server: ask_at(f"{MARKER}:{MARKER}@127.0.0.1", server.port),
    "a quoted user for a host": lambda http, server: http.request(
        "GET", f"http://{MARKER}%3A{MARKER}%40127.0.0.1:{server.port}/"
    ),
    "a path for a host": lambda _, server: ask_at(f"127.0.0.1/{MARKER}", server.port),
    "a query for a host": lambda _, server: ask_at(f"127.0.0.1?{MARKER}", server.port),
    "a URL for a host": lambda _, server: ask_at(f"http://127.0.0.1#{MARKER}", server.port),
}


def ask_at(host: str, port: int) -> None:
    urllib3.HTTPConnectionPool(host, port, timeout=1).request("GET", f"/{MARKER}", retries=0)


def broken_off() -> Iterator[bytes]:
    """A body whose reading fails."""
    yield b"x"
    raise ValueError(f"cannot read {MARKER}")


@pytest.mark.parametrize("what", ERRORS)
def test_what_is_wrong_with_a_request_is_told_without_the_words_of_its_error(
    telemetry: Telemetry, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    telemetry.install(spans="all", metrics="all")
    with Server() as server, manager(retries=0) as http, telemetry.tracer.start_as_current_span("request"):
        http.request("GET", f"{server.url}/ok?{MARKER}")
        with pytest.raises((urllib3.exceptions.HTTPError, ValueError)) as caught:
            ERRORS[what](http, server)
        assert MARKER in "".join(traceback.format_exception(caught.value))
        told = everything_told(telemetry, telemetry.collect())
    assert len(told) > 20
    assert [each for each in told if MARKER in str(each)] == []
    assert [record for record in caplog.records if record.name == "pool_telemetry"] == []


def test_a_name_that_cannot_be_resolved(telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    telemetry.install(metrics="all")
    seen = fail(manager(), "http://nowhere.invalid:8000")
    error, phases = failed_setup(telemetry)
    assert error == f"urllib3.exceptions.{type(seen).__name__}"
    assert phases == {"dns": "socket.gaierror"}
    (span,) = telemetry.named("DNS lookup nowhere.invalid")
    assert (span.attributes or {})["dns.question.name"] == "nowhere.invalid"


def test_a_connect_that_is_refused(telemetry: Telemetry) -> None:
    telemetry.install(metrics="all")
    fail(manager(), f"http://127.0.0.1:{free_port()}")
    assert failed_setup(telemetry) == (
        "urllib3.exceptions.NewConnectionError",
        {"connect": "ConnectionRefusedError"},
    )
    # The address of an attempt that failed is not known.
    (span,) = telemetry.named("socket connect")
    assert span.name == "socket connect"
    assert "network.peer.address" not in (span.attributes or {})


def test_a_connect_that_times_out(telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch) -> None:
    # Nobody can be relied on to swallow a SYN.
    class Blackhole(socket.socket):
        def connect(self, _: Any) -> None:
            raise TimeoutError("timed out")

    monkeypatch.setattr(socket, "socket", Blackhole)
    telemetry.install(metrics="all")
    fail(manager(), "http://127.0.0.1:9")
    assert failed_setup(telemetry) == ("urllib3.exceptions.ConnectTimeoutError", {"connect": "TimeoutError"})


def test_a_certificate_that_is_not_trusted(telemetry: Telemetry) -> None:
    with Server(tls="1.3") as server:
        telemetry.install(metrics="all")
        fail(urllib3.PoolManager(), f"https://127.0.0.1:{server.port}")
        error = "ssl.SSLCertVerificationError"
        assert failed_setup(telemetry) == (error, {"connect": None, "tls": error})


def test_a_proxy_that_refuses_to_connect(telemetry: Telemetry) -> None:
    with Server(tls="1.3") as server, Proxy(fail_connect=True) as proxy:
        telemetry.install(metrics="all")
        fail(urllib3.ProxyManager(proxy.url, ca_certs=server.ca_file), server.url)
        assert proxy.counts["refused"] == 1
        assert failed_setup(telemetry) == ("OSError", {"connect": None, "proxy": "OSError"})
    with warnings.catch_warnings():
        # In Python 3.10 http.client leaves the refusal open: its socket would warn in whatever test comes next.
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def test_an_https_proxy_that_is_not_trusted(telemetry: Telemetry) -> None:
    with Server(tls="1.3") as server, Proxy(tls=True) as proxy:
        telemetry.install(metrics="all")
        fail(urllib3.ProxyManager(f"https://127.0.0.1:{proxy.port}", ca_certs=server.ca_file), server.url)
        error = "ssl.SSLCertVerificationError"
        assert failed_setup(telemetry) == (error, {"connect": None, "proxy": error})


def test_an_origin_behind_a_tunnel_that_is_not_trusted(telemetry: Telemetry) -> None:
    with Server(tls="1.3") as server, Proxy() as proxy:
        telemetry.install(metrics="all")
        fail(urllib3.ProxyManager(proxy.url), server.url)
        error = "ssl.SSLCertVerificationError"
        assert failed_setup(telemetry) == (error, {"connect": None, "proxy": None, "tls": error})


def test_a_socks_proxy_that_cannot_reach_the_origin(telemetry: Telemetry) -> None:
    with SocksProxy() as proxy:
        telemetry.install(metrics="all")
        fail(urllib3.contrib.socks.SOCKSProxyManager(proxy.url), f"http://127.0.0.1:{free_port()}")
        assert failed_setup(telemetry) == ("urllib3.exceptions.NewConnectionError", {})


def test_a_set_up_goes_on_to_the_second_address(telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch) -> None:
    with Server() as server:

        def both(_: Any, port: int, *__: Any, **___: Any) -> Any:
            return [
                (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", free)),
                (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)),
            ]

        free = free_port()
        monkeypatch.setattr(socket, "getaddrinfo", both)
        telemetry.install(metrics="all")
        assert manager().request("GET", f"http://localhost:{server.port}/ok").data == b"ok"
        metrics = telemetry.collect()
        check_laws(metrics, checkouts=1)
        assert server.books.accepted == 1
        assert metrics.count("urllib3.connection.setup.phase.duration", phase="dns") == 1
        connects = metrics.points("urllib3.connection.setup.phase.duration", phase="connect")
        # The error of the first attempt is swallowed inside urllib3.
        assert {point.attributes.get("error.type"): point.count for point in connects} == {None: 1, "_OTHER": 1}
        (setup,) = telemetry.named("HTTP connection_setup")
        assert setup.status.status_code is StatusCode.UNSET
        failed, good = sorted(telemetry.named("socket connect"), key=lambda span: span.start_time or 0)
        assert failed.status.status_code is StatusCode.ERROR
        assert "network.peer.address" not in (failed.attributes or {})
        assert good.name == f"socket connect 127.0.0.1:{server.port}"


# Connections of other people's making


class CountingClose(urllib3.connection.HTTPConnection):
    """Like botocore's: overrides ``close()``, and calls the original."""

    closes = 0

    def close(self) -> None:
        super().close()
        type(self).closes += 1


class ClosingTwice(CountingClose):
    """One class further down, as applications subclass botocore's."""

    def close(self) -> None:
        super().close()
        super().close()


@pytest.mark.parametrize("kind", [CountingClose, ClosingTwice])
def test_an_overridden_close_closes_once_and_for_the_same_reason(telemetry: Telemetry, kind: Any) -> None:
    kind.closes = 0
    with Server() as server:
        telemetry.install()
        with urllib3.HTTPConnectionPool("127.0.0.1", server.port) as pool:
            pool.ConnectionCls = kind  # type: ignore[misc, unused-ignore]  # declared for the class, set as applications do
            pool.urlopen("GET", "/ok")
            for connection in server.connections:
                connection.fin()
            await_hangup([pool])
            pool.urlopen("GET", "/close")
            pool.urlopen("GET", "/lost")
            pool.urlopen("GET", "/lost")
            pool.urlopen("GET", "/big/100000", preload_content=False).close()
            pool.urlopen("GET", "/ok")
            pool.close()
        metrics = telemetry.collect()
        check_laws(metrics, checkouts=server.books.requests)
        assert kind.closes > 0
        assert metrics.by("urllib3.pool.closed_connections", "reason") == {
            "dropped": 1,
            "response_close": 1,
            "lost_race": 1,
            "abandoned": 1,
            "pool_closed": 1,
        }


class OfTheStandardLibrary(http.client.HTTPConnection):
    """A connection that has nothing of urllib3's in it."""

    is_verified = proxy_is_verified = True
    proxy = None

    def __init__(self, host: str, port: int | None = None, **_: Any) -> None:
        super().__init__(host, port, timeout=60)

    @property
    def is_closed(self) -> bool:
        return self.sock is None

    @property
    def is_connected(self) -> bool:
        return self.sock is not None and not urllib3.util.wait_for_read(self.sock, timeout=0.0)

    def request(self, method: str, url: str, body: Any = None, headers: Any = None, **_: Any) -> None:
        super().request(method, url, body, headers or {})

    def getresponse(self) -> Any:
        response = super().getresponse()
        if VERSION.startswith("1."):
            return response
        return urllib3.HTTPResponse(
            response,
            urllib3.HTTPHeaderDict(response.getheaders()),
            response.status,
            preload_content=False,
            original_response=response,
        )


def test_a_connection_of_http_client_is_told_too(telemetry: Telemetry) -> None:
    with Server() as server:
        telemetry.install()
        with urllib3.HTTPConnectionPool("127.0.0.1", server.port) as pool:
            pool.ConnectionCls = OfTheStandardLibrary  # type: ignore[misc, assignment, unused-ignore]  # as above, and of http.client
            for path in ("/ok", "/ok", "/close", "/ok"):
                assert pool.urlopen("GET", path).status == 200
            for connection in server.connections:
                connection.fin()
            await_hangup([pool])
            assert pool.urlopen("GET", "/ok").data == b"ok"
        metrics = telemetry.collect()
        check_laws(metrics, checkouts=5)
        assert metrics.value("urllib3.pool.opened_connections") == server.books.accepted == 3
        assert metrics.by("urllib3.pool.checkouts", "outcome") == {"new": 2, "reused": 2, "replaced": 1}
        reasons = metrics.by("urllib3.pool.closed_connections", "reason")
        assert reasons == {"response_close": 1, "dropped": 1, "pool_closed": 1}


@dataclass
class FakeSocket:
    """What vcrpy puts in a socket's place: it answers from a cassette."""

    pipe: tuple[int, int] = field(default_factory=os.pipe)

    def __del__(self) -> None:
        for descriptor in self.pipe:
            os.close(descriptor)

    def makefile(self, *_: Any) -> Any:
        return io.BytesIO(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntape")

    def fileno(self) -> int:
        return self.pipe[0]

    def sendall(self, data: bytes) -> None: ...

    def settimeout(self, seconds: float | None) -> None: ...

    def close(self) -> None: ...


class Stub(urllib3.connection.HTTPConnection):
    """A connection without a network."""

    def connect(self) -> None:
        self.sock: Any = FakeSocket()


class Pretender(urllib3.connection.HTTPConnection):
    """A connection that only pretends to connect, and has another socket whenever it is asked, as vcrpy's has."""

    def connect(self) -> None: ...

    @property
    def sock(self) -> Any:
        return FakeSocket()

    @sock.setter
    def sock(self, _: Any) -> None: ...


@pytest.mark.parametrize("kind", [Stub, Pretender])
def test_a_stub_without_a_real_socket_is_borne(
    telemetry: Telemetry, kind: Any, caplog: pytest.LogCaptureFixture
) -> None:
    telemetry.install(spans="all", metrics="all")
    with urllib3.HTTPConnectionPool("cassette.invalid") as pool, telemetry.tracer.start_as_current_span("request"):
        pool.ConnectionCls = kind  # type: ignore[misc, unused-ignore]  # declared for the class
        for _ in range(3):
            assert pool.urlopen("GET", "/").data == b"tape"
        metrics = telemetry.collect()
        assert metrics.value("urllib3.pool.checkouts") == 3
        is_adopted = kind is Pretender
        check_laws(metrics, adopted=is_adopted)
        if not is_adopted:
            assert metrics.by("urllib3.pool.checkouts", "outcome") == {"new": 1, "reused": 2}
        assert telemetry.named("HTTP connection_dropped") == []
    assert caplog.records == []


class NoFrills:
    """The least that urllib3's pool takes for a connection."""

    __slots__ = ("is_connected", "sock")

    def __init__(self) -> None:
        self.sock = None
        self.is_connected = True

    def close(self) -> None: ...


def mock_of_nothing() -> Any:
    mock = Mock()
    mock.sock = None
    return mock


class Failover(urllib3.HTTPConnectionPool):
    """Answers for attributes that it does not have by those of another pool."""

    def __init__(self, first: urllib3.HTTPConnectionPool, server: Server) -> None:
        self._first = first
        super().__init__(server.host, server.port)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._first, name)


def test_a_pool_that_shows_another_s_attributes_is_one_of_its_own(telemetry: Telemetry) -> None:
    telemetry.install()
    with Server() as server, Server() as other, urllib3.HTTPConnectionPool(server.host, server.port) as first:
        first.request("GET", "/ok")
        with Failover(first, other) as second:
            for _ in range(2):
                second.request("GET", "/ok")
            metrics = telemetry.collect()
            check_laws(metrics, checkouts=1, server__port=server.port)
            check_laws(metrics, checkouts=2, server__port=other.port)
            assert metrics.value("urllib3.pool.count") == 2


def test_pools_of_one_class_that_show_each_other_s_attributes_are_told_apart(telemetry: Telemetry) -> None:
    telemetry.install()
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(Server()) for _ in range(3)]
        pool = urllib3.HTTPConnectionPool(servers[0].host, servers[0].port)
        pools = [stack.enter_context(pool)]
        for server in servers[1:]:
            pools.append(stack.enter_context(Failover(pools[-1], server)))
        for times, each in enumerate(pools, 1):
            for _ in range(times):
                each.request("GET", "/ok")
        metrics = telemetry.collect()
        for times, server in enumerate(servers, 1):
            check_laws(metrics, checkouts=times, server__port=server.port)
        assert metrics.value("urllib3.pool.count") == 3


class Proxying(urllib3.HTTPConnectionPool):
    """Wraps its connections, as some instrumentations do."""

    def _new_conn(self) -> Any:
        return wrapt.ObjectProxy(super()._new_conn())


def test_a_connection_inside_a_proxy_object_is_followed(telemetry: Telemetry) -> None:
    telemetry.install()
    with Server() as server, Proxying(server.host, server.port) as pool:
        for _ in range(4):
            pool.request("GET", "/ok")
        metrics = telemetry.collect()
        check_laws(metrics, checkouts=4)
        assert metrics.by("urllib3.pool.checkouts", "outcome") == {"new": 1, "reused": 3}
        assert metrics.value("http.client.open_connections") == 1
        (proxy,) = [each for each in pool.pool.queue if each is not None]  # type: ignore[union-attr]  # it is open
        pool_telemetry.uninstall()
        assert MARK not in vars(proxy)


class NoSpan:
    def get_span_context(self) -> Any:
        raise RuntimeError("no context")


@pytest.mark.parametrize("make", [Mock, NoSpan, object, lambda: trace.Span], ids=["mock", "raises", "object", "class"])
def test_what_is_no_span_in_a_span_s_place_does_no_harm(
    telemetry: Telemetry, make: Callable[[], Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "pool_telemetry")
    telemetry.install()
    token = context.attach(context.set_value(propagation._SPAN_KEY, make()))
    try:
        with Server() as server, urllib3.HTTPConnectionPool(server.host, server.port) as pool:
            for _ in range(3):
                pool.request("GET", "/ok")
    finally:
        context.detach(token)
    metrics = telemetry.collect()
    check_laws(metrics, checkouts=3)
    assert metrics.count("urllib3.connection.idle.duration") == 2
    assert len(telemetry.named("HTTP connection_setup")) == 1
    assert [record.message for record in caplog.records if record.name == "pool_telemetry"] == []


STRANGE = pytest.mark.parametrize(
    "make",
    [
        Mock,
        mock_of_nothing,
        lambda: Mock(spec=urllib3.connection.HTTPConnection),
        lambda: Mock(spec=["close", "is_connected", "sock"], sock=None),
        NoFrills,
    ],
    ids=["mock", "mock without a socket", "mock of a connection", "mock with little", "slots"],
)


@STRANGE
def test_a_strange_object_in_the_pool_does_no_harm(
    telemetry: Telemetry, make: Callable[[], Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "pool_telemetry")

    def take_and_return() -> Any:
        strange = make()
        with urllib3.HTTPConnectionPool("127.0.0.1", 9) as pool:
            queue: Any = pool.pool
            queue.get()
            queue.put(strange)
            try:
                found = pool._get_conn()
            except Exception as error:  # 1.26 polls the mock's descriptor
                return type(error)
            pool._put_conn(found)
            return found is strange, queue.get() is strange

    as_usual = take_and_return()
    telemetry.install()
    assert take_and_return() == as_usual
    with Server() as server:
        manager().request("GET", f"{server.url}/ok")
        metrics = telemetry.collect()
        check_laws(metrics, checkouts=1, server__port=server.port)
    assert [record.message for record in caplog.records if record.name == "pool_telemetry"] == []


@STRANGE
@pytest.mark.parametrize("is_taken", [True, False], ids=["taken", "only returned"])
def test_a_strange_object_among_others_does_no_harm(
    telemetry: Telemetry, make: Callable[[], Any], is_taken: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "pool_telemetry")
    telemetry.install()
    strange = make()
    with Server() as server, urllib3.HTTPConnectionPool(server.host, server.port, maxsize=3) as pool:
        for _ in range(2):
            pool.request("GET", "/ok")
        if is_taken:
            queue: Any = pool.pool
            queue.get().close()
            queue.put(strange)
            with contextlib.suppress(Exception):  # 1.26 polls the mock's descriptor
                strange = pool._get_conn()
        pool._put_conn(strange)
        del strange
        assert telemetry.collect().value("urllib3.pool.checkouts") == 2 + is_taken
    assert [record.message for record in caplog.records if record.name == "pool_telemetry"] == []
