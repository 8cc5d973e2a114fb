"""A clean reuse costs next to nothing: no lock, no system call, no measurement, no span; shown by counting."""

from __future__ import annotations

import dis
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import opentelemetry.sdk
import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import Histogram
from opentelemetry.sdk.metrics._internal.aggregation import _ExplicitBucketHistogramAggregation as Aggregation
from opentelemetry.sdk.trace import Tracer
from urllib3 import HTTPConnectionPool

import pool_telemetry
from misbehaving import Server
from pool_telemetry import _install_lock, _instrument
from pool_telemetry._watch import MOST_SAMPLES
from tests.support import Telemetry, check_laws

OURS = str(Path(pool_telemetry.__file__).parent)
SDK = str(Path(opentelemetry.sdk.__path__[0]))
REUSES = 100

# All that runs of ours for a clean reuse. Whoever adds to these lists makes every request of every user slower.
FUNCTIONS = {"__get__", "_get_conn", "is_connection_dropped", "_put_conn", "current_use"}
# Of these, none takes a lock or makes a system call: monotonic_ns is answered in user space (vDSO), get is that of the
# context variable.
C_FUNCTIONS = {"monotonic_ns", "get", "append", "len", "add", "discard"}
# Neither `with` nor `async with`: a lock that is taken so is no call that a profiler sees.
CONTEXT_OPCODES = {"SETUP_WITH", "BEFORE_WITH", "LOAD_SPECIAL"}


class Profile:
    """What runs in this thread: functions of ours, the C functions they call, and functions of the SDK."""

    def __init__(self) -> None:
        self.codes: set[CodeType] = set()
        self.c_functions: set[str] = set()
        self.of_sdk: set[str] = set()
        self.calls = 0

    def __enter__(self) -> Profile:
        sys.setprofile(self._see)
        return self

    def __exit__(self, *exc_info: object) -> None:
        sys.setprofile(None)

    def _see(self, frame: FrameType, event: str, argument: Any) -> None:
        file = frame.f_code.co_filename
        if event == "call":
            if file.startswith(OURS):
                self.codes.add(frame.f_code)
                self.calls += 1
            elif file.startswith(SDK):
                self.of_sdk.add(frame.f_code.co_name)
        elif event == "c_call" and file.startswith(OURS):
            self.c_functions.add(argument.__name__)


class Counted:
    """Counts how often something is called, or entered."""

    def __init__(self, original: Any) -> None:
        self._original = original
        self.count = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.count += 1
        return self._original(*args, **kwargs)

    def acquire(self, *args: Any, **kwargs: Any) -> Any:
        self.count += 1
        return self._original.acquire(*args, **kwargs)

    def release(self) -> None:
        self._original.release()

    def __enter__(self) -> Any:
        self.count += 1
        return self._original.__enter__()

    def __exit__(self, *exc_info: object) -> Any:
        return self._original.__exit__(*exc_info)

    def __get__(self, instance: Any, owner: Any) -> Any:
        return self if instance is None else lambda *args, **kwargs: self(instance, *args, **kwargs)


@pytest.fixture
def pool() -> Iterator[HTTPConnectionPool]:
    with Server() as server, HTTPConnectionPool(server.host, server.port) as pool:
        yield pool


def reuse(pool: HTTPConnectionPool, times: int = REUSES) -> None:
    for _ in range(times):
        assert pool.request("GET", "/ok").data == b"ok"


@pytest.mark.parametrize("settings", [{}, {"metrics": "all"}, {"metrics": "off"}, {"spans": "off"}], ids=str)
@pytest.mark.parametrize("has_span", [False, True], ids=["without a span", "in a span"])
def test_a_clean_reuse_runs_nothing_that_waits(
    settings: dict[str, Any], has_span: bool, telemetry: Telemetry, pool: HTTPConnectionPool
) -> None:
    telemetry.install(**settings)
    reuse(pool, 2)
    telemetry.collect()
    span = telemetry.tracer.start_span("request")
    if has_span:
        with trace.use_span(span), Profile() as profile:
            reuse(pool)
    else:
        with Profile() as profile:
            reuse(pool)
    assert profile.calls >= len(FUNCTIONS) * REUSES, "this has not seen the hooks"
    assert {code.co_name for code in profile.codes} <= FUNCTIONS
    assert profile.c_functions <= C_FUNCTIONS
    assert {"monotonic_ns", "discard"} <= profile.c_functions, "this has not seen what the hooks call"
    for code in profile.codes:
        opcodes = {instruction.opname for instruction in dis.get_instructions(code)}
        assert not opcodes & CONTEXT_OPCODES, code.co_name
    # A current span is asked for its SpanContext, which is its own and no more than a property.
    assert profile.of_sdk <= {"get_span_context"}


def test_the_profile_sees_locks_and_the_sdk_where_there_are_some(
    telemetry: Telemetry, pool: HTTPConnectionPool
) -> None:
    # Otherwise the test above could not fail.
    telemetry.install()
    with Profile() as profile:
        assert pool.request("GET", "/close").data == b"ok"
        telemetry.collect()
    assert "acquire" in profile.c_functions
    assert "getpid" in profile.c_functions
    assert "record" in profile.of_sdk
    assert "start_span" in profile.of_sdk
    assert any(
        instruction.opname in CONTEXT_OPCODES for code in profile.codes for instruction in dis.get_instructions(code)
    )


def test_a_clean_reuse_takes_none_of_our_locks(
    telemetry: Telemetry, pool: HTTPConnectionPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    telemetry.install()
    ledger: Any = _instrument._ledger
    reuse(pool, 2)
    locks = []
    for name, holder in (("_lock", ledger), ("entering", ledger), ("_lock", _install_lock)):
        lock = Counted(getattr(holder, name))
        monkeypatch.setattr(holder, name, lock)
        locks.append(lock)
    reuse(pool)
    assert [lock.count for lock in locks] == [0, 0, 0]
    telemetry.collect()
    assert locks[0].count  # or none of this could fail


def test_a_clean_reuse_records_and_traces_nothing_until_metrics_are_collected(
    telemetry: Telemetry, pool: HTTPConnectionPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, start_span = Counted(Histogram.record), Counted(Tracer.start_span)
    aggregate = Counted(Aggregation.aggregate)  # which samples of one point come to without record()
    monkeypatch.setattr(Aggregation, "aggregate", aggregate)
    for kind in (Histogram, *Histogram.__subclasses__()):
        if "record" in vars(kind):
            monkeypatch.setattr(kind, "record", record)
    monkeypatch.setattr(Tracer, "start_span", start_span)
    telemetry.install(metrics="all")
    reuse(pool, 2)
    telemetry.collect()
    assert record.count
    assert start_span.count
    record.count = aggregate.count = start_span.count = 0
    with Profile():
        reuse(pool)
    assert (record.count, aggregate.count, start_span.count) == (0, 0, 0)
    metrics = telemetry.collect()
    assert (record.count, aggregate.count, start_span.count) == (1, REUSES, 0)
    assert metrics.count("urllib3.connection.idle.duration") == REUSES + 1
    check_laws(metrics, checkouts=REUSES + 2)


def test_one_reuse_in_many_empties_the_full_buffer(telemetry: Telemetry, pool: HTTPConnectionPool) -> None:
    telemetry.install()
    ledger: Any = _instrument._ledger
    reuse(pool, 1)
    telemetry.collect()
    lengths = []
    for _ in range(2 * MOST_SAMPLES + 5):
        reuse(pool, 1)
        lengths.append(len(ledger.samples.waiting))
    assert lengths == [number % MOST_SAMPLES for number in range(1, 2 * MOST_SAMPLES + 6)]
    metrics = telemetry.collect()
    assert metrics.count("urllib3.connection.idle.duration", outcome="reused") == 2 * MOST_SAMPLES + 5


def test_a_sampled_out_trace_costs_no_more(telemetry: Telemetry, pool: HTTPConnectionPool) -> None:
    telemetry.install()
    reuse(pool, 2)
    context = trace.SpanContext(1, 2, is_remote=False, trace_flags=trace.TraceFlags(0))
    with trace.use_span(trace.NonRecordingSpan(context)), Profile() as profile:
        reuse(pool)
    assert profile.calls >= len(FUNCTIONS) * REUSES, "this has not seen the hooks"
    assert not profile.of_sdk
    assert profile.c_functions <= C_FUNCTIONS


def test_an_excluded_host_costs_one_look(telemetry: Telemetry, pool: HTTPConnectionPool) -> None:
    telemetry.install(excluded_hosts=pool.host)
    reuse(pool, 2)
    with Profile() as profile:
        reuse(pool)
    assert profile.calls >= REUSES, "this has not seen the hooks"
    looking = {"_get_with_care", "_returned", "record_of", "_dict_of"}
    assert {code.co_name for code in profile.codes} <= FUNCTIONS | looking
    assert "acquire" not in profile.c_functions
    assert not profile.of_sdk
