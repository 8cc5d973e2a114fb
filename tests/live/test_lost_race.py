"""Connections that pass the check and fail in the request, and failures that only look like it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import requests
import urllib3

import pool_telemetry
from misbehaving import Server
from tests.live.wire import (
    PROTOCOLS,
    DeafServer,
    attributes_of,
    before_sending,
    causes,
    chunks,
    drops,
    fin,
    last_of,
    pooled,
    rst,
    wait_for_peer,
)
from tests.support import Telemetry, check_laws, manager

IDLE = 0.06
"""Seconds; far beyond the kernel's jiffies, so that what came before the request can be told from what came after."""
BIG = b"x" * 8_000_000
BODIES = {"GET": None, "POST": b"x", "big POST": BIG}
# Before the request is sent; or "/lost…", after it has come.
BEFORE: dict[str, Callable[[Server], Callable[[Any], None]]] = {"fin": fin, "rst": rst}


def errors_in(error: BaseException | None) -> list[str]:
    """An exception's type and those that it wraps."""
    found = []
    while isinstance(error, BaseException):
        found.append(type(error).__qualname__)
        inner = getattr(error, "reason", None)
        error = (
            inner
            if isinstance(inner, BaseException)
            else next((each for each in error.args if isinstance(each, BaseException)), None)
        )
    return found


def race(server: Server, http: urllib3.PoolManager, deed: str, sent: str) -> tuple[object, float]:
    """What the caller of a racing request gets, and when it was made."""
    http.request("GET", f"{server.url}/ok")
    pool = http.connection_from_url(server.url)
    time.sleep(IDLE)
    if deed in BEFORE:
        before_sending(pool, BEFORE[deed](server))
    url = f"{server.url}{'/ok' if deed in BEFORE else deed}"
    started = time.monotonic()
    try:
        return http.request(sent.rpartition(" ")[2], url, body=BODIES[sent], timeout=60).status, started
    except urllib3.exceptions.HTTPError as error:
        return errors_in(error), started


@pytest.mark.parametrize("sent", BODIES)
@pytest.mark.parametrize("deed", ["fin", "rst", "/lost", "/lost-rst", "/lost-unread"])
@pytest.mark.parametrize("tls", PROTOCOLS)
def test_a_lost_race_is_told_with_its_reason(telemetry: Telemetry, tls: str | None, deed: str, sent: str) -> None:
    telemetry.install(metrics="all")
    with Server(tls=tls) as server, manager(server.ca_file) as http:
        got, started = race(server, http, deed, sent)
        took = time.monotonic() - started
        metrics = telemetry.collect()
    is_repaired = got == 200
    if sent == "GET":
        assert is_repaired
    elif tls is None:
        assert not is_repaired  # urllib3 repeats what has no side effects; a TLS error it may take for another thing
    check_laws(metrics, checkouts=2 + is_repaired)
    ((reason, phase),) = drops(metrics)
    assert phase == "request"
    assert metrics.by("urllib3.pool.closed_connections", "reason") == {"lost_race": 1}
    outcomes = {"new": 1 + is_repaired, "reused": 1}
    assert metrics.by("urllib3.pool.checkouts", "outcome") == outcomes
    assert causes(metrics) == {"new": 1, **({"lost_race": 1} if is_repaired else {})}

    (span,) = telemetry.named("HTTP connection_dropped")
    (told,) = attributes_of([span])
    assert span.end_time is not None
    assert span.start_time is not None
    assert (span.end_time - span.start_time) / 1e9 <= took
    assert IDLE <= told["idle.duration"] < told["age"]
    assert told["drop.reason"] == reason
    assert told["drop.phase"] == "request"
    assert told["request.count"] == 1
    assert "remote_close.duration" not in told
    assert "close_wait.duration" not in told
    error = told["error.type"].rpartition(".")[2]
    assert error in ("RemoteDisconnected", "ConnectionResetError", "SSLEOFError", "BrokenPipeError")
    if not is_repaired:
        assert isinstance(got, list)
        assert error in got

    if deed in ("fin", "/lost"):
        state = told["network.connection.state"]
        # In TLS the alert may be read before the FIN has come, which follows it on its own.
        is_alone = tls is not None and deed == "/lost" and state == "established"
        assert reason == ("close_notify" if is_alone else "fin")
    else:
        assert told["network.connection.state"] == "closed"
        # When part of a request with a body had been acknowledged, the head for one, and urllib3 or OpenSSL kept the
        # errno to itself, the kernel has nothing left that tells an RST from a FIN which the rest ran into.
        is_anyones_guess = sent != "GET" and deed not in BEFORE and error != "ConnectionResetError"
        assert reason in ({"reset", "fin", "unknown"} if is_anyones_guess else {"reset"})


@pytest.mark.parametrize("sent", BODIES)
@pytest.mark.parametrize("deed", BEFORE)
@pytest.mark.parametrize("tls", PROTOCOLS)
def test_the_caller_gets_what_it_would_get_without_us(
    telemetry: Telemetry, tls: str | None, deed: str, sent: str
) -> None:
    def outcome() -> tuple[object, int, int]:
        with Server(tls=tls) as server, manager(server.ca_file) as http:
            return race(server, http, deed, sent)[0], server.books.requests, server.books.accepted

    telemetry.install()
    with_us = outcome()
    pool_telemetry.uninstall()
    # It is a race: whether the end is found in sending or in reading is up to the machine, and mostly alike.
    without_us: list[object] = []
    while with_us not in without_us:
        assert len(without_us) < 20, (with_us, without_us)
        without_us.append(outcome())


@pytest.mark.parametrize("tls", PROTOCOLS)
@pytest.mark.parametrize(("deed", "reason"), [(fin, "fin"), (rst, "reset")])
def test_a_session_of_requests_surfaces_it_and_our_books_tell_it(
    telemetry: Telemetry, deed: Callable[[Server], Callable[[Any], None]], reason: str, tls: str | None
) -> None:
    telemetry.install()
    with Server(tls=tls) as server, requests.Session() as session:
        session.trust_env = False
        session.verify = server.ca_file or True
        session.get(f"{server.url}/ok")
        adapter: Any = session.get_adapter(server.url)
        (key,) = adapter.poolmanager.pools.keys()
        time.sleep(IDLE)
        before_sending(adapter.poolmanager.pools[key], deed(server))
        with pytest.raises(requests.exceptions.ConnectionError):
            session.get(f"{server.url}/ok")
        assert session.get(f"{server.url}/ok").text == "ok"
        metrics = telemetry.collect()
        check_laws(metrics, checkouts=3)
        assert drops(metrics) == {(reason, "request"): 1}
        assert metrics.by("urllib3.pool.checkouts", "outcome") == {"new": 2, "reused": 1}
        assert causes(metrics) == {"new": 1, "lost_race": 1}


@pytest.mark.parametrize("tls", PROTOCOLS)
def test_a_fin_in_the_middle_of_a_body_is_a_lost_race(telemetry: Telemetry, tls: str | None) -> None:
    telemetry.install()
    with Server(tls=tls) as server, manager(server.ca_file) as http:
        http.request("GET", f"{server.url}/ok")
        conn = pooled(http.connection_from_url(server.url))[0]
        time.sleep(IDLE)

        def close() -> None:
            last_of(server).fin()
            wait_for_peer(conn.sock)

        with pytest.raises(urllib3.exceptions.HTTPError):
            http.request(
                "POST", f"{server.url}/ok", body=chunks(b"one", close, b"two", b"three"), timeout=5, retries=False
            )
        metrics = telemetry.collect()
        check_laws(metrics, checkouts=2)
        assert drops(metrics) == {("fin", "request"): 1}
        assert metrics.by("urllib3.pool.closed_connections", "reason") == {"lost_race": 1}


def test_the_kernels_timeout_in_a_request_is_told(telemetry: Telemetry, tmp_path: Path) -> None:
    # The server answers once and then reads no more: the body cannot leave, and TCP_USER_TIMEOUT ends the connection.
    telemetry.install()
    with DeafServer(None, tmp_path) as server, server.manager(timeout=0.2) as http:
        with server.answering():
            http.request("GET", server.url)
        time.sleep(IDLE)
        with pytest.raises(urllib3.exceptions.HTTPError):
            http.request("POST", server.url, body=BIG, retries=False)
        metrics = telemetry.collect()
        check_laws(metrics, checkouts=2)
        assert drops(metrics) == {("timed_out", "request"): 1}


class Patient(urllib3.Retry):
    """Waits before the next try, and notes from when on."""

    waits: ClassVar[list[int]] = []

    def sleep(self, response: Any = None) -> None:
        self.waits.append(time.time_ns())
        time.sleep(0.2)


@pytest.mark.parametrize("deed", ["fin", "rst", "/lost"])
@pytest.mark.parametrize("tls", PROTOCOLS)
def test_a_back_off_is_no_part_of_it(telemetry: Telemetry, tls: str | None, deed: str) -> None:
    telemetry.install()
    Patient.waits.clear()
    with Server(tls=tls) as server, manager(server.ca_file, retries=Patient(3)) as http:
        got, _ = race(server, http, deed, "GET")
        assert got == 200
    ((reason, _),) = drops(telemetry.collect())
    assert reason in ({"reset"} if deed == "rst" else {"fin", "close_notify"} if tls else {"fin"})
    (span,) = telemetry.named("HTTP connection_dropped")
    (began_to_wait,) = Patient.waits
    assert span.end_time is not None
    assert span.end_time < began_to_wait + 100_000_000  # in the first half of the back-off at the latest
    (set_up,) = [each for each in telemetry.named("HTTP connection_setup") if each.links]
    assert span.context is not None
    assert span.context.span_id in {link.context.span_id for link in set_up.links}


@pytest.mark.parametrize("tls", PROTOCOLS)
def test_what_happens_during_a_back_off_makes_no_lost_race(telemetry: Telemetry, tls: str | None) -> None:
    # The body is read from elsewhere, and fails; the server ends the connection while the retry is still waiting.
    telemetry.install()
    ended: list[bool] = []

    class Meanwhile(urllib3.Retry):
        def sleep(self, response: Any = None) -> None:
            last_of(server).fin()
            ended.append(True)
            time.sleep(0.1)

    with Server(tls=tls) as server, manager(server.ca_file) as http:
        http.request("GET", f"{server.url}/ok")
        time.sleep(IDLE)

        def fail() -> None:
            raise ConnectionRefusedError("of where the body comes from")

        with contextlib.suppress(urllib3.exceptions.HTTPError):  # what is left of the body may pass for one
            retries = Meanwhile(1, allowed_methods=None)
            http.request("POST", f"{server.url}/ok", body=chunks(b"one", fail), retries=retries)
        assert ended
        metrics = telemetry.collect()
    assert metrics.by("urllib3.pool.closed_connections", "reason")["failed"] >= 1
    assert "lost_race" not in metrics.by("urllib3.pool.closed_connections", "reason")
    assert drops(metrics) == {}


class Nested(urllib3.Retry):
    """Makes a request that is redirected, and comes by again before it counts."""

    url: ClassVar[str] = ""

    def increment(self, *args: Any, **kwargs: Any) -> Nested:
        if kwargs.get("error") is not None:
            with urllib3.PoolManager() as http:
                assert http.request("GET", self.url, retries=urllib3.Retry(3)).status == 200
            try:
                raise KeyError("of its own")
            except KeyError:
                super().increment(*args, **kwargs)
        return super().increment(*args, **kwargs)


@pytest.mark.parametrize("deed", ["fin", "rst", "/lost"])
@pytest.mark.parametrize("tls", PROTOCOLS)
def test_it_is_told_once_whatever_a_retry_does_meanwhile(telemetry: Telemetry, tls: str | None, deed: str) -> None:
    telemetry.install()
    with Server() as other, Server(tls=tls) as server, manager(server.ca_file, retries=Nested(3)) as http:
        Nested.url = f"{other.url}/redirect/ok"
        assert race(server, http, deed, "GET")[0] == 200
        metrics = telemetry.collect()
    assert sum(drops(metrics).values()) == 1
    assert metrics.by("urllib3.pool.closed_connections", "reason", server__port=server.port) == {"lost_race": 1}
    assert len(telemetry.named("HTTP connection_dropped")) == 1
    assert causes(metrics)["lost_race"] == 1


class OwnRetry(urllib3.Retry):
    """Goes without urllib3's way of counting."""

    def increment(self, *args: Any, **kwargs: Any) -> OwnRetry:
        return self.new(total=(self.total or 1) - 1)


@pytest.mark.parametrize("tls", PROTOCOLS)
def test_a_retry_of_another_make_leaves_the_books_in_order(telemetry: Telemetry, tls: str | None) -> None:
    telemetry.install()
    with Server(tls=tls) as server, manager(server.ca_file, retries=OwnRetry(3)) as http:
        assert race(server, http, "rst", "GET")[0] == 200
    metrics = telemetry.collect()
    check_laws(metrics, checkouts=3)
    # After a ConnectionError in reading http.client closes by itself, and is seen doing so. Which error it is hangs on
    # when the RST comes, and on the version of Python.
    ((reason, closes),) = metrics.by("urllib3.pool.closed_connections", "reason").items()
    assert (reason, closes) in {("lost_race", 1), ("failed", 1)}
    is_seen = reason == "lost_race"
    assert drops(metrics) == ({("reset", "request"): 1} if is_seen else {})
    assert len(telemetry.named("HTTP connection_dropped")) == is_seen
    assert causes(metrics) == ({"new": 1, "lost_race": 1} if is_seen else {"new": 2})


@pytest.mark.parametrize("error", [OSError({"not": "a number"}, "x"), TimeoutError([1], "x")], ids=repr)
def test_an_error_without_a_proper_number_does_no_harm(
    telemetry: Telemetry, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise error

    telemetry.install()
    with Server() as server, manager() as http:
        http.request("GET", f"{server.url}/ok")
        with pytest.raises((urllib3.exceptions.HTTPError, TypeError)):  # 1.26 itself looks the number up in a set
            http.request("POST", f"{server.url}/ok", body=chunks(b"one", fail), retries=False)
        assert_it_failed(telemetry, checkouts=2)
    assert [record for record in caplog.records if record.name == "pool_telemetry"] == []


# What only looks like it


def assert_it_failed(telemetry: Telemetry, *, checkouts: int) -> None:
    metrics = telemetry.collect()
    check_laws(metrics, checkouts=checkouts)
    assert drops(metrics) == {}
    assert metrics.by("urllib3.pool.closed_connections", "reason") == {"failed": 1}
    assert set(causes(metrics)) == {"new"}
    assert not telemetry.named("HTTP connection_dropped")


@pytest.mark.parametrize("tls", PROTOCOLS)
@pytest.mark.parametrize("path", ["/partial-rst", "/partial-head-rst", "/garbage"])
def test_a_response_that_breaks_off_is_no_lost_race(telemetry: Telemetry, path: str, tls: str | None) -> None:
    telemetry.install()
    with Server(tls=tls) as server, manager(server.ca_file) as http:
        http.request("GET", f"{server.url}/ok")
        time.sleep(IDLE)
        with pytest.raises(urllib3.exceptions.HTTPError) as raised:
            http.request("GET", server.url + path, retries=False)
        error = raised.value.args[-1]
        if tls and path == "/partial-rst" and type(error) is ConnectionResetError:
            # From outside the encryption, bytes of a response are not to be told from an alert: docs, limits.
            assert drops(telemetry.collect()) == {("reset", "request"): 1}
        else:
            assert_it_failed(telemetry, checkouts=2)


@pytest.mark.parametrize("tls", PROTOCOLS)
def test_a_body_that_breaks_off_is_no_lost_race(telemetry: Telemetry, tls: str | None) -> None:
    telemetry.install()
    with Server(tls=tls) as server, manager(server.ca_file) as http:
        http.request("GET", f"{server.url}/ok")
        time.sleep(IDLE)
        response = http.request("GET", f"{server.url}/truncate", preload_content=False, enforce_content_length=True)
        with pytest.raises(urllib3.exceptions.ProtocolError):
            response.read()
        assert_it_failed(telemetry, checkouts=2)


@pytest.mark.parametrize("tls", PROTOCOLS)
def test_a_read_timeout_is_no_lost_race(telemetry: Telemetry, tls: str | None) -> None:
    telemetry.install()
    with Server(tls=tls) as server, manager(server.ca_file) as http:
        http.request("GET", f"{server.url}/ok")
        time.sleep(IDLE)
        with pytest.raises(urllib3.exceptions.ReadTimeoutError):
            http.request("GET", f"{server.url}/hang", timeout=0.1, retries=False)
        assert_it_failed(telemetry, checkouts=2)


@pytest.mark.parametrize("error", [ConnectionResetError("of another one"), ConnectionAbortedError(), TimeoutError()])
@pytest.mark.parametrize("tls", PROTOCOLS)
def test_an_error_of_the_body_is_no_lost_race(telemetry: Telemetry, tls: str | None, error: Exception) -> None:
    def fail() -> None:
        raise error

    telemetry.install()
    with Server(tls=tls) as server, manager(server.ca_file) as http:
        http.request("GET", f"{server.url}/ok")
        time.sleep(IDLE)
        with pytest.raises((urllib3.exceptions.HTTPError, OSError)):
            http.request("POST", f"{server.url}/ok", body=chunks(b"one", fail), timeout=5, retries=False)
        assert_it_failed(telemetry, checkouts=2)


@pytest.mark.parametrize("tls", PROTOCOLS)
@pytest.mark.parametrize("deed", ["fin", "rst"])
def test_a_fresh_connection_that_fails_is_no_lost_race(telemetry: Telemetry, deed: str, tls: str | None) -> None:
    telemetry.install()
    with Server(tls=tls) as server, manager(server.ca_file) as http:

        def end() -> None:
            server.wait_for(lambda books: books.requests == 1)
            getattr(last_of(server), deed)()
            time.sleep(0.02)  # the connection is out, and cannot be looked at: let it arrive

        with pytest.raises(urllib3.exceptions.HTTPError):
            http.request("POST", f"{server.url}/ok", body=chunks(b"one", end, b"two", b"3"), timeout=5, retries=False)
        assert_it_failed(telemetry, checkouts=1)


@pytest.mark.parametrize("tls", PROTOCOLS)
def test_a_request_that_fails_on_the_connection_that_replaced_a_dropped_one_is_no_lost_race(
    telemetry: Telemetry, tls: str | None
) -> None:
    telemetry.install()
    with Server(tls=tls) as server, manager(server.ca_file) as http:
        http.request("GET", f"{server.url}/fin/0")
        wait_for_peer(pooled(http.connection_from_url(server.url))[0].sock)
        with pytest.raises(urllib3.exceptions.HTTPError):
            http.request("GET", f"{server.url}/partial-rst", retries=False)
        metrics = telemetry.collect()
        check_laws(metrics, checkouts=2)
        assert drops(metrics) == {("fin", "checkout"): 1}
        assert metrics.by("urllib3.pool.closed_connections", "reason") == {"dropped": 1, "failed": 1}


@pytest.mark.parametrize("tls", PROTOCOLS)
def test_an_exception_that_the_application_is_handling_confuses_nothing(telemetry: Telemetry, tls: str | None) -> None:
    telemetry.install()
    with Server(tls=tls) as server, manager(server.ca_file) as http:
        url, pool = server.url, http.connection_from_url(server.url)
        try:
            raise ConnectionResetError("of the application")
        except ConnectionResetError:
            http.request("GET", f"{url}/ok")
            http.request("GET", f"{url}/close")  # on a reused connection
            http.request("GET", f"{url}/fin/0")
            wait_for_peer(pooled(pool)[0].sock)
            http.request("GET", f"{url}/ok")
            with pytest.raises(urllib3.exceptions.ReadTimeoutError):
                http.request("GET", f"{url}/hang", timeout=0.1, retries=False)
            response = http.request("GET", f"{url}/ok", preload_content=False)
            response.close()
            http.request("GET", f"{url}/ok")
            time.sleep(IDLE)
            before_sending(pool, fin(server))
            http.request("GET", f"{url}/ok")
            pool.close()
        metrics = telemetry.collect()
        check_laws(metrics)
        assert drops(metrics) == {("fin", "checkout"): 1, ("fin", "request"): 1}
        assert metrics.by("urllib3.pool.closed_connections", "reason") == {
            "response_close": 1,
            "dropped": 1,
            "failed": 1,
            "abandoned": 1,
            "lost_race": 1,
            "pool_closed": 1,
        }


def test_a_lost_race_of_one_thread_or_pool_is_not_repaired_by_another(telemetry: Telemetry) -> None:
    telemetry.install()
    with Server() as server, Server() as other, manager() as http:
        http.request("GET", f"{server.url}/ok")
        before_sending(http.connection_from_url(server.url), fin(server))
        with pytest.raises(urllib3.exceptions.ProtocolError):
            http.request("POST", f"{server.url}/ok")
        http.request("GET", f"{other.url}/ok")
        assert causes(telemetry.collect()) == {"new": 2}
        http.request("GET", f"{server.url}/ok")
        http.request("GET", f"{server.url}/close")
        http.request("GET", f"{server.url}/ok")
        assert causes(telemetry.collect()) == {"new": 3, "lost_race": 1}


def test_after_uninstall_a_race_is_told_no_more(telemetry: Telemetry) -> None:
    telemetry.install()
    with Server() as server, manager() as http:
        http.request("GET", f"{server.url}/ok")
        pool_telemetry.uninstall()
        before_sending(http.connection_from_url(server.url), fin(server))
        assert http.request("GET", f"{server.url}/ok").status == 200
        assert not telemetry.named("HTTP connection_dropped")
