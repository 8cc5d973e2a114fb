"""What goes wrong is told without the secrets of those whom it happened to: in logs, in errors, on the command line."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import urllib3
from opentelemetry.trace import NoOpTracer
from urllib3.exceptions import HTTPError

import pool_telemetry
from misbehaving import Server
from pool_telemetry import _checkout, _connect, _request, _spans, _watch
from pool_telemetry._discretion import discreet, told
from pool_telemetry._settings import Settings
from tests.programs import once, run
from tests.support import Telemetry

SECRET = "zq7secret"
URL = f"https://user:{SECRET}@collector.example:4318/{SECRET}?token={SECRET}"


class Kept(logging.Handler):
    """Keeps all records as they are, as a queue for them does, and as text."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.records: list[logging.LogRecord] = []
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        self.text += logging.Formatter("%(levelname)s %(message)s").format(record) + "\n"


@pytest.fixture
def kept() -> Any:
    handler, log = Kept(), logging.getLogger("pool_telemetry")
    log.addHandler(handler)
    yield handler
    log.removeHandler(handler)


# What was given for a setting


@pytest.mark.parametrize("name", [*(set(vars(Settings())) - {"excluded_hosts"}), "tracer_provider", "meter_provider"])
def test_a_url_in_the_place_of_a_setting_is_refused_and_not_quoted(name: str) -> None:
    given: dict[str, Any] = {name: URL}
    with pytest.raises((TypeError, ValueError)) as caught:
        pool_telemetry.install(**given)
    assert name in str(caught.value)
    assert "<str that may hold a secret>" in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "given",
    [
        {"excluded_hosts": [URL, 1]},
        {"spans": [URL]},
        {"export": {"endpoint": URL}},
        {URL: 1},
        {"metrics": URL.encode()},
    ],
    ids=["hosts", "list", "dict", "name", "bytes"],
)
def test_nor_where_it_is_a_part_of_what_was_given(given: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="that may hold a secret>") as caught:
        pool_telemetry.install(**given)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("name", sorted(set(vars(Settings())) - {"excluded_hosts"}))
def test_a_url_in_a_variable_is_warned_of_and_not_quoted(name: str, kept: Kept) -> None:
    variable = "POOL_TELEMETRY_REPORT" if name == "report_at_exit" else f"POOL_TELEMETRY_{name.upper()}"
    Settings.resolve({}, {variable: URL})
    assert variable in kept.text
    assert SECRET not in kept.text


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("interval value 0 must be positive", "interval value 0 must be positive"),
        (f"cannot reach {URL} at once", "cannot reach ... at once"),
        (f"header authorization=Basic%20{SECRET} is bad", "header ... is bad"),
        (f"bad header: authorization:{SECRET}", "bad header: ..."),
        (f"//user:{SECRET}@host", "..."),
        ("one\nWARNING two\x1b[2J", "one WARNING ..."),
    ],
)
def test_words_of_others_go_without_what_may_be_a_secret(words: str, shown: str) -> None:
    assert discreet(words) == shown


def test_what_an_error_quotes_is_left_out() -> None:
    text = told(ValueError(f"Port could not be cast to integer value as '{SECRET}'"))
    assert text.startswith("Port could not be cast to integer value as ...\nTraceback")
    assert text.endswith("builtins.ValueError")


# Faults of ours, in the middle of what goes wrong with a request


def refused(_: Server) -> None:
    proxy = urllib3.ProxyManager(f"http://user:{SECRET}@127.0.0.1:1", headers={SECRET: SECRET})
    proxy.request("GET", f"http://{SECRET}:{SECRET}@127.0.0.1/{SECRET}", retries=0)


def no_host(server: Server) -> None:
    urllib3.HTTPConnectionPool(f"user:{SECRET}@127.0.0.1", server.port).request("GET", f"/{SECRET}?{SECRET}", retries=0)


def lost(server: Server) -> None:
    with urllib3.HTTPConnectionPool(server.host, server.port) as pool:
        for _ in range(2):
            pool.request("GET", f"/lost?{SECRET}", headers={"Authorization": SECRET}, retries=0)


def closed(server: Server) -> None:
    pool = urllib3.HTTPConnectionPool(server.host, server.port)
    pool.request("GET", "/ok")
    pool.close()
    try:
        raise KeyError(SECRET)
    except KeyError:
        pool.request("GET", f"/{SECRET}", retries=0)


WRONG: dict[str, tuple[Callable[[Server], None], Any, str]] = {
    "a set-up that failed": (refused, _connect, "SetUp"),
    "the span of it": (refused, _spans.SpanObserver, "set_up"),
    "a host that is none": (no_host, _watch.Watch, "tell_set_up"),
    "a race that was lost": (lost, _request.RequestHooks, "_judge"),
    "the end of its connection": (lost, _request.RequestHooks, "_closing"),
    "a pool that was closed": (closed, _checkout.CheckoutHooks, "_tell_checkout"),
    "the first sight of a pool": (closed, _watch.Watch, "see"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_fault_of_ours_is_logged_without_the_error_in_whose_midst_it_came(
    telemetry: Telemetry, kept: Kept, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    act, owner, name = WRONG[what]

    def fault(*_: Any, **__: Any) -> Any:
        raise LookupError(f"{SECRET} in {URL}")

    monkeypatch.setattr(owner, name, fault)
    telemetry.install(spans="all")
    with Server() as server, pytest.raises((HTTPError, ValueError)):
        act(server)
    assert len(kept.records) == 1
    assert kept.text.startswith("ERROR pool_telemetry has a fault in ")
    assert "\nTraceback (most recent call last):\n" in kept.text
    assert kept.text.endswith("\nbuiltins.LookupError\n")
    assert SECRET not in kept.text.replace("raise LookupError(f", "")
    # An error tracker would read the variables of an exception's frames.
    assert not kept.records[0].exc_info


def test_a_log_that_is_kept_keeps_nothing_of_the_applications(
    telemetry: Telemetry, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(*_: Any, **__: Any) -> Any:
        raise LookupError

    monkeypatch.setattr(_watch.Watch, "tell_set_up", fault)
    telemetry.install()
    with Server() as server:
        pool = urllib3.HTTPConnectionPool(server.host, server.port)
        response: Any = pool.urlopen("GET", "/ok", preload_content=False)
        alive = [weakref.ref(each) for each in (pool, response, response._connection)]
        response.read()
        response.release_conn()
        del pool, response
        assert len(kept.records) == 1
        assert [each() for each in alive] == [None] * 3


def test_a_tracer_that_fails_is_told_without_its_words(
    telemetry: Telemetry, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(*_: Any, **__: Any) -> Any:
        raise RuntimeError(f"cannot export to {URL}")

    monkeypatch.setattr(NoOpTracer, "start_span", fault)
    monkeypatch.setattr(telemetry.tracer_provider, "get_tracer", lambda *_, **__: NoOpTracer())
    telemetry.install()
    with Server() as server, urllib3.HTTPConnectionPool(server.host, server.port) as pool:
        pool.request("GET", "/ok")
    assert "has a fault in the making of spans" in kept.text
    assert kept.text.count(SECRET) == 0


# What OpenTelemetry's variables hold

EXPORT = """
import logging, sys, traceback
import pool_telemetry, urllib3
from misbehaving import Server

handler = logging.StreamHandler(sys.stdout)
log = logging.getLogger("pool_telemetry")
log.addHandler(handler)
log.setLevel(logging.DEBUG)
logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
try:
    pool_telemetry.install(export=True)
except Exception as error:
    print("raised", error)
with Server() as server, urllib3.PoolManager() as http:
    print(http.request("GET", server.url + "/ok").data)
print(pool_telemetry.snapshot())
pool_telemetry.report(sys.stdout)
"""
NO_OTLP = {"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"}
#: Variables, and what is told where they are wrong.
EXPORTING: dict[str, tuple[dict[str, str], str]] = {
    "an endpoint with a user": (
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://user:{SECRET}@127.0.0.1:9",
            "OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Basic%20{SECRET}",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
            "OTEL_BSP_SCHEDULE_DELAY": "100000",
        },
        "",
    ),
    "a URL for a protocol": ({"OTEL_EXPORTER_OTLP_PROTOCOL": URL}, "raised OTEL_EXPORTER_OTLP_PROTOCOL is <str that"),
    "a URL for an exporter": (
        {**NO_OTLP, "OTEL_TRACES_EXPORTER": URL},
        "raised no OpenTelemetry exporter <str that may hold a secret> for traces",
    ),
    "a password that ends the host": (
        {
            "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://user:{SECRET}[@127.0.0.1:9",
            "OTEL_EXPORTER_OTLP_HEADERS": f"authorization: {SECRET}",
        },
        "no spans are exported from this process: ",
    ),
    "a URL for an interval": (
        {**NO_OTLP, "OTEL_METRICS_EXPORTER": "console", "OTEL_METRIC_EXPORT_INTERVAL": f"-{SECRET}"},
        "",
    ),
}


@once
@pytest.mark.parametrize("what", EXPORTING)
def test_what_the_variables_of_exporters_hold_is_not_told(what: str) -> None:
    variables, expected = EXPORTING[what]
    out = run(EXPORT, (), **variables)
    assert "b'ok'\n" in out
    assert "Connection pools of process" in out
    assert expected in out
    assert SECRET not in out
