"""A child that is forked at any moment, in the midst of whatever else, never hangs, and counts for itself.

``POOL_TELEMETRY_TEST_FORKS`` asks for so many forks under load; without it they are fifty.
"""

from __future__ import annotations

import functools
import gc
import io
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import urllib3
from opentelemetry.metrics import Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    MetricExporter,
    MetricExportResult,
    MetricReader,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

import pool_telemetry
from misbehaving import Server, ServerProcess
from pool_telemetry import _forking, _instrument
from pool_telemetry._watch import MOST_SAMPLES
from tests import programs
from tests.live.apart import CHILD_SECONDS, in_child, run_apart
from tests.live.test_fork import figures, fresh_telemetry, is_dying_shown, pool_of
from tests.programs import needs_fork
from tests.support import Metrics, Telemetry, check_laws

pytestmark = needs_fork
FORKS = int(os.environ.get("POOL_TELEMETRY_TEST_FORKS", "50"))


class Spans(SpanExporter):
    """Keeps what it gets, without a lock: what the SDK does with its own is to be seen."""

    def __init__(self) -> None:
        self.got: list[ReadableSpan] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.got += spans
        return SpanExportResult.SUCCESS


class Collections(MetricExporter):
    """Likewise."""

    def __init__(self) -> None:
        super().__init__()
        self.got: list[Metrics] = []

    def export(self, metrics_data: MetricsData, timeout_millis: float = 0, **_: Any) -> MetricExportResult:
        self.got.append(Metrics(metrics_data))
        return MetricExportResult.SUCCESS

    def force_flush(self, timeout_millis: float = 0) -> bool:
        return True

    def shutdown(self, timeout_millis: float = 0, **_: Any) -> None:
        pass


class Asked(MetricReader):
    """Collects when it is asked, without a lock of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.got: list[Metrics] = []

    def _receive_metrics(self, metrics_data: MetricsData, timeout_millis: float = 0, **_: Any) -> None:
        self.got.append(Metrics(metrics_data))

    def shutdown(self, timeout_millis: float = 0, **_: Any) -> None:
        pass

    def ask(self) -> Metrics:
        self.collect()
        return self.got[-1]


class RealTelemetry:
    """Providers as an application sets them up: with threads of the SDK's own, which are hardly ever at rest."""

    def __init__(self) -> None:
        self.spans, self.collections = Spans(), Collections()
        self.reader = PeriodicExportingMetricReader(self.collections, export_interval_millis=3)
        self.meter_provider = MeterProvider([self.reader])
        self.tracer_provider = TracerProvider()
        self.tracer_provider.add_span_processor(BatchSpanProcessor(self.spans, schedule_delay_millis=3))
        pool_telemetry.install(tracer_provider=self.tracer_provider, meter_provider=self.meter_provider, metrics="all")

    def shutdown(self) -> None:
        self.tracer_provider.shutdown()
        self.meter_provider.shutdown()


def forks_under_load(forks: int) -> None:
    """Threads open, drop, lose and leak connections in ever new pools, settle, look, collect garbage, and export."""
    is_dying_shown()
    telemetry = RealTelemetry()
    ledger, emitter = _instrument._ledger, _instrument._emitter
    assert ledger is not None
    assert emitter is not None
    done = threading.Event()
    faults: list[BaseException] = []

    def load(server: ServerProcess) -> None:
        with pool_of(server, maxsize=1) as pool:
            for _ in range(3):
                pool.urlopen("GET", "/ok", retries=urllib3.Retry(50, backoff_factor=0))
            left: list[Any] = [
                pool.urlopen("GET", "/ok", retries=urllib3.Retry(50, backoff_factor=0), preload_content=False)
            ]
            left.append(left)  # a leak, for the garbage collector to find

    def keep_books() -> None:
        ledger.settle()
        emitter.flush(can_wait=True)
        pool_telemetry.snapshot()
        gc.collect(1)
        time.sleep(0.001)  # under the lock of Python's, hardly anybody else would get a turn

    def repeat(work: Callable[[], object]) -> None:
        try:
            while not done.is_set():
                work()
        except BaseException as fault:
            faults.append(fault)

    def work() -> list[Any]:
        # As a child does that goes on with what it has inherited, be it whole or not; then with its own.
        at_first = len(pool_telemetry.snapshot().upstreams)
        with pool_of(calm) as own:
            own.urlopen("GET", "/ok")
            own.urlopen("GET", "/ok")
            emitter.flush(can_wait=True)  # as where the buffer is full
            (upstream,) = pool_telemetry.snapshot().upstreams
            checkouts = sum(upstream.checkouts.values())
            inherited = [at_first, checkouts, upstream.opened_connections, len(upstream.pools)]
            own_telemetry = fresh_telemetry(spans="off")
            own.urlopen("GET", "/ok")
            return [inherited, figures(own_telemetry.collect())]

    with ServerProcess(seed=1) as server, Server() as calm:
        loads = [functools.partial(load, server)] * 3
        threads = [threading.Thread(target=repeat, args=(each,)) for each in (*loads, keep_books)]
        with pool_of(calm) as pool:
            pool.urlopen("GET", "/ok")  # imports what a first request imports: those locks are Python's own
        sys.setswitchinterval(1e-5)
        for thread in threads:
            thread.start()
        try:
            for number in range(forks):
                inherited, fresh = in_child(work)
                assert inherited == [0, 2, 1, 1], (number, inherited)
                wanted = ("checkouts", "opened", "open", "pools")
                assert [fresh[name] for name in wanted] == [3, 1, 1, 1], (number, fresh)
            assert calm.books.requests == 1 + 3 * forks
            assert calm.books.accepted == 1 + forks
        finally:
            done.set()
            for thread in threads:
                thread.join()
        assert not faults, faults
        assert telemetry.spans.got
        telemetry.reader.collect()
        check_laws(telemetry.collections.got[-1])
        telemetry.shutdown()


def silenced_child(work: Callable[[], Any]) -> Callable[[], list[Any]]:
    """Work for a child, which gives what it has logged as well."""

    def listen() -> list[Any]:
        said: list[str] = []

        class Listener(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                said.append(record.getMessage())

        logging.getLogger("pool_telemetry").addHandler(Listener())
        return [work(), said]

    return listen


def fork_in_the_midst_of_a_collection(is_ending: bool) -> None:
    """An application's callback takes its time, while the SDK holds its locks: until the fork waits, or for long."""
    is_dying_shown()
    _forking._PATIENCE = CHILD_SECONDS if is_ending else 0.05
    reader = Asked()
    provider = MeterProvider([reader])
    pool_telemetry.install(spans="off", meter_provider=provider)
    emitter = _instrument._emitter
    assert emitter is not None
    is_collecting, may_end = threading.Event(), threading.Event()

    def slow(_: Any) -> list[Observation]:
        if threading.current_thread() is not threading.main_thread():
            is_collecting.set()
            while not may_end.is_set() and not (is_ending and emitter._recorders.should_wait()):
                time.sleep(0.001)
        return []

    provider.get_meter("application").create_observable_gauge("slow", [slow])
    with Server() as server, pool_of(server) as pool:
        pool.urlopen("GET", "/ok")
        pool.urlopen("GET", "/ok")
        reader.ask()

        def work() -> list[Any]:
            with pool_of(server) as own:
                for _ in range(MOST_SAMPLES + 1):  # a full buffer is recorded in the course of a request
                    own.urlopen("GET", "/ok")
                (upstream,) = pool_telemetry.snapshot().upstreams
                counted = sum(upstream.checkouts.values())
                recorded = None
                if is_ending:
                    recorded = reader.ask().count("urllib3.connection.idle.duration")
                own_telemetry = fresh_telemetry(spans="off")
                for _ in range(2):  # how long it was idle before the first of them nobody knows
                    own.urlopen("GET", "/ok")
                return [counted, recorded, own_telemetry.collect().count("urllib3.connection.idle.duration")]

        collector = threading.Thread(target=reader.collect)
        collector.start()
        assert is_collecting.wait(CHILD_SECONDS)
        (counted, recorded, afresh), said = in_child(silenced_child(work))
        may_end.set()
        collector.join()
        assert counted == MOST_SAMPLES + 1
        assert afresh == 1
        if is_ending:
            assert recorded == 1 + MOST_SAMPLES  # the SDK goes on with what the parent had
            assert not said
        else:
            assert [each.startswith("this process records no histograms") for each in said] == [True]
        # Nothing of that is the parent's.
        assert reader.ask().value("urllib3.pool.checkouts") == 2
        pool.urlopen("GET", "/ok")
        assert reader.ask().count("urllib3.connection.idle.duration") == 2


def forks_while_another_thread_installs_and_uninstalls(forks: int) -> None:
    is_dying_shown()
    telemetry = Telemetry()
    telemetry.install()
    done = threading.Event()

    def reinstall() -> None:
        while not done.is_set():
            pool_telemetry.uninstall()
            telemetry.install()

    def load() -> None:
        while not done.is_set():
            with pool_of(server) as pool:
                pool.urlopen("GET", "/close")
                pool.urlopen("GET", "/ok")

    def work() -> dict[str, float]:
        with pool_of(calm) as own:
            own.urlopen("GET", "/ok")
            is_installed = pool_telemetry.snapshot().is_installed
            own_telemetry = fresh_telemetry()
            own.urlopen("GET", "/close")
            metrics = own_telemetry.collect()
            return {**figures(metrics), "adopted": not is_installed}

    with Server() as server, Server() as calm:
        with pool_of(calm) as pool:
            pool.urlopen("GET", "/ok")
        threads = [threading.Thread(target=each) for each in (reinstall, load)]
        sys.setswitchinterval(1e-5)
        for thread in threads:
            thread.start()
        try:
            for _ in range(forks):
                found = in_child(work)
                # What was opened while the library was not installed was not seen to be opened.
                assert (found["checkouts"], found["opened"]) == ((1, 0) if found["adopted"] else (2, 1)), found
                assert (found["closed"], found["open"], found["pools"]) == (1, 0, 1), found
        finally:
            done.set()
            for thread in threads:
                thread.join()


class Interposed(SpanProcessor):
    """An application's processor, that does something with each of our spans of drops."""

    def __init__(self, act: Callable[[], object]) -> None:
        self._act = act

    def on_end(self, span: ReadableSpan) -> None:
        if span.name.startswith("HTTP connection_dropped"):
            self._act()


def fork_in_the_midst_of_a_drops_span(by_the_same_thread: bool) -> None:
    """While its span is ended: by another thread, or by the one that ends it, as a processor may start a process."""
    is_dying_shown()
    telemetry = RealTelemetry()
    is_ending, may_end = threading.Event(), threading.Event()
    found: list[Any] = []
    parent = os.getpid()

    def drop(pool: urllib3.HTTPConnectionPool) -> None:
        pool.urlopen("GET", "/lost")
        pool.urlopen("GET", "/lost", retries=1)

    def work() -> list[str]:
        telemetry.spans.got.clear()
        with pool_of(server) as own:
            drop(own)
        telemetry.tracer_provider.force_flush()
        return sorted({span.name.split()[1] for span in telemetry.spans.got if span.name.startswith("HTTP")})

    def act() -> None:
        if os.getpid() == parent and not is_ending.is_set():
            is_ending.set()
            if by_the_same_thread:
                found.append(in_child(work))
            else:
                may_end.wait(CHILD_SECONDS)

    telemetry.tracer_provider.add_span_processor(Interposed(act))
    with Server() as server, pool_of(server) as pool:
        if by_the_same_thread:
            drop(pool)
        else:
            dropper = threading.Thread(target=drop, args=(pool,))
            dropper.start()
            assert is_ending.wait(CHILD_SECONDS)
            found.append(in_child(work))
            may_end.set()
            dropper.join()
        assert found == [["connection_dropped", "connection_setup"]]
        telemetry.shutdown()


def child_in_which_a_thread_is_started_before_our_hook_runs() -> None:
    """As the SDK starts its own anew. It collects at once, finds the parent's books, and is long at emptying them."""
    is_dying_shown()
    is_at_it, has_asked = threading.Event(), threading.Event()
    threads: list[threading.Thread] = []

    class Slow(list[Any]):
        """What lies in a pool's queue."""

        def __iter__(self) -> Iterator[Any]:
            if threading.current_thread() in threads:
                is_at_it.set()
                has_asked.wait(1)
            return super().__iter__()

    def collect() -> None:
        ledger = _instrument._ledger
        assert ledger is not None
        ledger.read()

    def start() -> None:
        threads.append(threading.Thread(target=collect))
        threads[0].start()
        assert is_at_it.wait(CHILD_SECONDS)

    os.register_at_fork(after_in_child=start)
    telemetry = Telemetry()
    telemetry.install(spans="off")
    with Server() as server, pool_of(server) as pool:
        pool.urlopen("GET", "/ok")
        queue: Any = pool.pool
        queue.queue = Slow(queue.queue)

        def work() -> dict[str, float]:
            with pool_of(server) as own:
                own.urlopen("GET", "/ok")
                own.urlopen("GET", "/ok")
                has_asked.set()
                threads[0].join()
                return figures(telemetry.collect())

        found = in_child(work)
        assert (found["checkouts"], found["opened"], found["open"], found["pools"]) == (2, 1, 1, 1), found


def look() -> str:
    return str(len(pool_telemetry.snapshot().upstreams))


def report() -> str:
    file = io.StringIO()
    pool_telemetry.report(file)
    return file.getvalue()


def name_finding() -> str:
    return pool_telemetry.Finding.__name__


#: What imports a module when it is first done, the module, and what comes of it.
FIRSTS: dict[str, tuple[Callable[[], str], str, str]] = {
    "snapshot": (look, "_viewing", "0"),
    "report": (report, "_report", "Connection pools of process"),
    "Finding": (name_finding, "_finding", "Finding"),
}


def fork_while_another_thread_does_it_first(name: str) -> None:
    """What it needs is imported then, and a module whose import was under way at the fork is never to be had."""
    act, module, expected = FIRSTS[name]
    module = f"pool_telemetry.{module}"
    is_dying_shown()
    assert module not in sys.modules
    telemetry = Telemetry()
    telemetry.install()
    is_importing, may_end = threading.Event(), threading.Event()
    parent = os.getpid()

    class Slow:
        """Stands among the finders of modules."""

        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name == module and os.getpid() == parent:
                is_importing.set()
                # The fork can wait for it, but not so long that the child hangs.
                while not may_end.is_set() and not is_forking.is_set():
                    time.sleep(0.001)

    is_forking = threading.Event()
    os.register_at_fork(before=is_forking.set)  # the last to be registered is the first to be called
    sys.meta_path.insert(0, Slow())
    reporter = threading.Thread(target=act)
    reporter.start()
    assert is_importing.wait(CHILD_SECONDS)
    try:
        assert expected in in_child(act)
    finally:
        may_end.set()
        reporter.join()


# The tests


@pytest.mark.timeout(150 + FORKS)
def test_forks_under_load_hang_no_child_and_each_counts_what_it_asked_for() -> None:
    run_apart(forks_under_load, FORKS, seconds=100 + FORKS / 2)


@pytest.mark.parametrize("is_ending", [True, False], ids=["which ends", "which takes long"])
def test_a_fork_in_the_midst_of_a_collection_hangs_no_child(is_ending: bool) -> None:
    run_apart(fork_in_the_midst_of_a_collection, is_ending)


def test_forks_while_another_thread_installs_and_uninstalls_hang_no_child() -> None:
    run_apart(forks_while_another_thread_installs_and_uninstalls, 40)


@pytest.mark.parametrize("by_the_same_thread", [False, True], ids=["of another thread", "of its own"])
def test_a_fork_in_the_midst_of_a_drops_span_leaves_the_child_its_own_spans(by_the_same_thread: bool) -> None:
    run_apart(fork_in_the_midst_of_a_drops_span, by_the_same_thread)


def test_a_thread_that_is_in_the_child_before_us_does_not_empty_its_books_later() -> None:
    run_apart(child_in_which_a_thread_is_started_before_our_hook_runs)


@pytest.mark.parametrize("name", FIRSTS)
def test_a_fork_while_another_thread_does_something_first_leaves_the_child_its_own(name: str) -> None:
    run_apart(fork_while_another_thread_does_it_first, name)


def test_a_fork_waits_for_an_install_that_waits_for_the_lock_of_logging() -> None:
    """In a program that imports us before anything that logs: both register what is to be done at a fork."""
    out = programs.run(
        """
        import pool_telemetry

        import logging, os, threading, time, warnings
        from pool_telemetry import _install_lock

        warnings.simplefilter("ignore", DeprecationWarning)  # from Python 3.12 on, of a fork with threads

        inside, through = threading.Event(), []

        def install():
            inside.set()
            time.sleep(0.2)  # until the fork is under way
            logging.getLogger("new")
            through.append(True)

        thread = threading.Thread(target=_install_lock.run_alone, args=(install,))
        thread.start()
        inside.wait()
        child = os.fork()
        if child == 0:
            os._exit(0 if through else 1)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        thread.join()
        """
    )
    assert out.split() == ["0"]
